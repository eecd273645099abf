output "connect" {
  description = "Command that adds the cluster to your kubeconfig."
  value       = "gcloud container clusters get-credentials ${var.name} --location ${var.zone} --project ${var.project_id}"
}

output "image" {
  description = "Name to build and push the trainer's image as; add a tag."
  value       = local.image
}

output "run_file" {
  description = "What a run file needs for this cluster; add a tag to the image."
  value = yamlencode({
    namespace       = var.namespace
    service_account = var.service_account
    image           = local.image
    data            = "${google_storage_bucket.this.url}/data"
    run             = "${google_storage_bucket.this.url}/runs/{name}"
    node_selector   = { "trainyard/pool" = "cpu" }
    tolerations     = [{ key = "trainyard/pool", value = "cpu", effect = "NoSchedule" }]
  })
}

output "run_file_gpu" {
  description = "The same lines for the pool with GPUs; null where there is none."
  value = var.gpu_pool == null ? null : yamlencode({
    node_selector = { "trainyard/pool" = "gpu" }
    tolerations   = []
    resources     = { gpus = var.gpu_pool.gpu_count }
  })
}
