data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

locals {
  account = data.aws_caller_identity.this.account_id
  bucket  = coalesce(var.bucket_name, "${var.name}-${local.account}-${var.region}")
  cluster = var.existing_cluster == null ? aws_eks_cluster.this[0].name : var.existing_cluster
  create  = var.existing_cluster == null ? 1 : 0
}

resource "aws_ecr_repository" "this" {
  name                 = "${var.name}/trainer"
  image_tag_mutability = "IMMUTABLE" # a tag in a run file always means the same image
}

# What a person needs besides the cluster: log in to it, put data, read runs, push images. Attach it
# to the roles or users in var.submitters.
resource "aws_iam_policy" "submitter" {
  name        = "${var.name}-submitter"
  description = "Submit Trainyard runs: log in to the cluster, use the bucket's objects, push images"
  policy      = data.aws_iam_policy_document.submitter.json
}

data "aws_iam_policy_document" "submitter" {
  statement {
    actions   = ["eks:DescribeCluster"]
    resources = ["arn:${data.aws_partition.this.partition}:eks:${var.region}:${local.account}:cluster/${local.cluster}"]
  }

  statement {
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.this.arn]
  }

  statement {
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = ["${aws_s3_bucket.this.arn}/*"]
  }

  statement {
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # this action knows no other
  }

  statement {
    actions = [
      "ecr:BatchCheckLayerAvailability",
      "ecr:BatchGetImage",
      "ecr:CompleteLayerUpload",
      "ecr:GetDownloadUrlForLayer",
      "ecr:InitiateLayerUpload",
      "ecr:PutImage",
      "ecr:UploadLayerPart",
    ]
    resources = [aws_ecr_repository.this.arn]
  }
}
