resource "google_storage_bucket" "this" {
  project  = var.project_id
  name     = local.bucket
  location = local.region

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false # never delete results along with the cluster

  # The trainer never overwrites a checkpoint; versions would only keep what it deletes.
  versioning {
    enabled = false
  }

  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_days * 24 * 60 * 60
  }

  # Uploads that other tools left when they were killed; the trainer's own uploads expire by themselves.
  lifecycle_rule {
    condition {
      age = 1
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  dynamic "lifecycle_rule" {
    for_each = var.delete_runs_after_days[*]

    content {
      condition {
        age            = lifecycle_rule.value
        matches_prefix = ["runs/"]
      }
      action {
        type = "Delete"
      }
    }
  }

  depends_on = [google_project_service.this]
}

# The narrowest predefined role that creates, reads, lists and deletes objects; unlike
# storage.objectAdmin it cannot change permissions. The member is the pods' Kubernetes service account
# itself: no Google service account, no key, no annotation.
resource "google_storage_bucket_iam_member" "trainer" {
  bucket = google_storage_bucket.this.name
  role   = "roles/storage.objectUser"
  member = join("/", [
    "principal://iam.googleapis.com/projects/${data.google_project.this.number}",
    "locations/global/workloadIdentityPools/${var.project_id}.svc.id.goog",
    "subject/ns/${var.namespace}/sa/${var.service_account}",
  ])

  depends_on = [google_container_cluster.this] # the first one creates the project's identity pool
}

resource "google_storage_bucket_iam_member" "submitter" {
  for_each = var.submitters

  bucket = google_storage_bucket.this.name
  role   = "roles/storage.objectUser"
  member = each.key
}
