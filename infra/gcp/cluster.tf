locals {
  # Runs select a pool by its label. The taint keeps everything else away, so the pool can scale down to
  # zero. GKE taints nodes with GPUs itself, and adds the toleration to pods that request one.
  pools = {
    for name, pool in {
      system = {
        machine_type = "e2-standard-2"
        min_nodes    = 1
        max_nodes    = 2
        spot         = false
        gpus         = []
        taints       = []
      }
      cpu = {
        machine_type = var.cpu_pool.machine_type
        min_nodes    = 0
        max_nodes    = var.cpu_pool.max_nodes
        spot         = var.cpu_pool.spot
        gpus         = []
        taints       = ["cpu"]
      }
      gpu = {
        machine_type = try(var.gpu_pool.machine_type, null)
        min_nodes    = 0
        max_nodes    = try(var.gpu_pool.max_nodes, 0)
        spot         = try(var.gpu_pool.spot, false)
        gpus         = var.gpu_pool[*]
        taints       = []
      }
    } : name => pool if pool.max_nodes > 0
  }
}

resource "google_service_account" "nodes" {
  project      = var.project_id
  account_id   = "${var.name}-nodes"
  display_name = "Trainyard nodes: logs, metrics and pulling images, no data"

  depends_on = [google_project_service.this]
}

resource "google_project_iam_member" "nodes" {
  project = var.project_id
  role    = "roles/container.defaultNodeServiceAccount"
  member  = google_service_account.nodes.member
}

resource "google_artifact_registry_repository_iam_member" "nodes" {
  project    = var.project_id
  location   = google_artifact_registry_repository.this.location
  repository = google_artifact_registry_repository.this.name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.nodes.member
}

resource "google_artifact_registry_repository_iam_member" "submitter" {
  for_each = var.submitters

  project    = var.project_id
  location   = google_artifact_registry_repository.this.location
  repository = google_artifact_registry_repository.this.name
  role       = "roles/artifactregistry.writer"
  member     = each.key
}

# Lets submitters log in to the cluster; ../cluster/submitter.yaml says what they may do there.
resource "google_project_iam_member" "submitter" {
  for_each = var.submitters

  project = var.project_id
  role    = "roles/container.clusterViewer"
  member  = each.key
}

# Standard, not Autopilot: pools of a chosen machine type, so that a gang's workers are alike and
# get whole machines; and zonal, because a gang waits for its slowest link, and because the free
# tier pays the management fee of one zonal cluster.
resource "google_container_cluster" "this" {
  project             = var.project_id
  name                = var.name
  location            = var.zone
  deletion_protection = var.deletion_protection

  network    = google_compute_network.this.id
  subnetwork = google_compute_subnetwork.this.id

  # Dataplane V2, which enforces NetworkPolicies.
  datapath_provider     = "ADVANCED_DATAPATH"
  enable_shielded_nodes = true

  # The pools below replace the one that every cluster starts with.
  remove_default_node_pool = true
  initial_node_count       = 1

  node_config {
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
  }

  release_channel {
    channel = "REGULAR"
  }

  workload_identity_config {
    workload_pool = "${var.project_id}.svc.id.goog"
  }

  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }

  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = false
  }

  dynamic "master_authorized_networks_config" {
    for_each = length(var.control_plane_cidrs) > 0 ? [var.control_plane_cidrs] : []

    content {
      dynamic "cidr_blocks" {
        for_each = master_authorized_networks_config.value

        content {
          display_name = cidr_blocks.key
          cidr_block   = cidr_blocks.value
        }
      }
    }
  }

  dynamic "authenticator_groups_config" {
    for_each = var.rbac_security_group[*]

    content {
      security_group = authenticator_groups_config.value
    }
  }

  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS"]

    managed_prometheus {
      enabled = false
    }
  }

  lifecycle {
    ignore_changes = [node_config] # of the pool that was removed
  }

  depends_on = [google_project_iam_member.nodes]
}

resource "google_container_node_pool" "this" {
  for_each = local.pools

  project  = var.project_id
  cluster  = google_container_cluster.this.name
  location = google_container_cluster.this.location
  name     = each.key

  initial_node_count = each.value.min_nodes

  autoscaling {
    min_node_count = each.value.min_nodes
    max_node_count = each.value.max_nodes
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  node_config {
    machine_type    = each.value.machine_type
    spot            = each.value.spot
    disk_size_gb    = 50
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    labels          = { "trainyard/pool" = each.key }

    # Pods have their own identity and cannot reach the node's.
    workload_metadata_config {
      mode = "GKE_METADATA"
    }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    dynamic "guest_accelerator" {
      for_each = each.value.gpus

      content {
        type  = guest_accelerator.value.gpu_type
        count = guest_accelerator.value.gpu_count

        gpu_driver_installation_config {
          gpu_driver_version = "DEFAULT"
        }
      }
    }

    dynamic "taint" {
      for_each = each.value.taints

      content {
        key    = "trainyard/pool"
        value  = taint.value
        effect = "NO_SCHEDULE"
      }
    }
  }

  lifecycle {
    ignore_changes = [initial_node_count]
  }
}
