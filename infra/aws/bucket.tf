resource "aws_s3_bucket" "this" {
  bucket        = local.bucket
  force_destroy = false # never delete results along with the cluster
}

# S3 encrypts every object by itself, and has no lists of permissions on single objects while their
# owner is always the bucket's.
resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket = aws_s3_bucket.this.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.id
  policy = data.aws_iam_policy_document.bucket.json

  depends_on = [aws_s3_bucket_public_access_block.this]
}

data "aws_iam_policy_document" "bucket" {
  statement {
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.this.arn, "${aws_s3_bucket.this.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

# Only so that what was deleted by mistake can be restored; the rule below removes old versions.
resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    id     = "forget-deleted"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.keep_deleted_days
    }

    expiration {
      expired_object_delete_marker = true
    }

    # Uploads that other tools left when they were killed; the trainer writes an object in one request.
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  dynamic "rule" {
    for_each = var.delete_runs_after_days[*]

    content {
      id     = "delete-runs"
      status = "Enabled"

      filter {
        prefix = "runs/"
      }

      expiration {
        days = rule.value
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

# The pods' role. EKS Pod Identity gives it to one service account of one namespace of one cluster: no
# key, no annotation.
resource "aws_eks_pod_identity_association" "trainer" {
  cluster_name    = local.cluster
  namespace       = var.namespace
  service_account = var.service_account
  role_arn        = aws_iam_role.trainer.arn
}

resource "aws_iam_role" "trainer" {
  name               = "${var.name}-trainer"
  assume_role_policy = data.aws_iam_policy_document.trainer_trust.json
}

data "aws_iam_policy_document" "trainer_trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }

    # Also whoever may associate roles in this account cannot lend it to other pods.
    dynamic "condition" {
      for_each = {
        kubernetes-namespace       = var.namespace
        kubernetes-service-account = var.service_account
        eks-cluster-name           = local.cluster
      }

      content {
        test     = "StringEquals"
        variable = "aws:RequestTag/${condition.key}"
        values   = [condition.value]
      }
    }
  }
}

resource "aws_iam_role_policy" "trainer" {
  name   = "bucket"
  role   = aws_iam_role.trainer.name
  policy = data.aws_iam_policy_document.trainer.json
}

data "aws_iam_policy_document" "trainer" {
  # Of the whole bucket: with a condition on the prefix, S3 answers 403 instead of 404 to a read of an
  # object that is not there.
  statement {
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.this.arn]
  }

  statement {
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.this.arn}/data/*", "${aws_s3_bucket.this.arn}/runs/*"]
  }

  statement {
    actions   = ["s3:PutObject", "s3:DeleteObject"]
    resources = ["${aws_s3_bucket.this.arn}/runs/*"]
  }
}
