locals {
  region = regex("^(.+)-[a-z]$", var.zone)[0]
  bucket = coalesce(var.bucket_name, "${var.project_id}-${var.name}")
  image  = "${local.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.this.repository_id}/trainer"
}

data "google_project" "this" {
  project_id = var.project_id
}

resource "google_project_service" "this" {
  for_each = toset(["artifactregistry", "cloudresourcemanager", "compute", "container", "iam", "storage"])

  project            = var.project_id
  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false # others in the project may use it
}

# Nodes have no external addresses and there is no NAT: they reach Google's APIs, the bucket and
# the registry, and nothing else outside.
resource "google_compute_network" "this" {
  project                 = var.project_id
  name                    = var.name
  auto_create_subnetworks = false

  depends_on = [google_project_service.this]
}

resource "google_compute_subnetwork" "this" {
  project                  = var.project_id
  name                     = var.name
  network                  = google_compute_network.this.id
  region                   = local.region
  ip_cidr_range            = "10.0.0.0/22"
  private_ip_google_access = true

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = "10.4.0.0/16"
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = "10.8.0.0/20"
  }
}

resource "google_artifact_registry_repository" "this" {
  project       = var.project_id
  location      = local.region
  repository_id = var.name
  format        = "DOCKER"
  description   = "Trainer images"

  docker_config {
    immutable_tags = true # a tag in a run file always means the same image
  }

  depends_on = [google_project_service.this]
}
