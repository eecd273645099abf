output "connect" {
  description = "Command that adds the cluster to your kubeconfig."
  value       = "aws eks update-kubeconfig --name ${local.cluster} --region ${var.region}"
}

output "image" {
  description = "Name to build and push the trainer's image as; add a tag."
  value       = aws_ecr_repository.this.repository_url
}

output "submitter_policy" {
  description = "ARN of the policy to attach to the roles or users who submit."
  value       = aws_iam_policy.submitter.arn
}

output "run_file" {
  description = "What a run file needs for this cluster; add a tag to the image."
  value = yamlencode(merge(
    {
      namespace       = var.namespace
      service_account = var.service_account
      image           = aws_ecr_repository.this.repository_url
      data            = "s3://${aws_s3_bucket.this.id}/data"
      run             = "s3://${aws_s3_bucket.this.id}/runs/{name}"
      environment     = { AWS_REGION = var.region }
    },
    # A gang's workers are alike and near each other.
    local.create == 0 ? {} : {
      node_selector = {
        "node.kubernetes.io/instance-type" = var.instance_type
        "topology.kubernetes.io/zone"      = local.zones[0]
      }
    },
  ))
}
