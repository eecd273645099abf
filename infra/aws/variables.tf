variable "region" {
  description = "Region of the bucket, the registry and the cluster, so that reading data costs nothing."
  type        = string
  default     = "us-east-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "A region such as us-east-1, not a zone."
  }
}

variable "name" {
  description = "Name of the registry and of the new cluster, and the start of all other names."
  type        = string
  default     = "trainyard"

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$", var.name))
    error_message = "1 to 20 of a-z, 0-9 and '-', starting with a letter, not ending with '-'."
  }
}

variable "bucket_name" {
  description = "Name of the bucket, unique in all of S3; NAME-ACCOUNT-REGION if null."
  type        = string
  default     = null

  validation {
    condition     = var.bucket_name == null || can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "3 to 63 of a-z, 0-9 and '-', without s3://."
  }
}

variable "existing_cluster" {
  description = "Name of an EKS cluster with the Pod Identity agent to train in; null creates a cluster."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Namespace of the runs, as in ../cluster/namespace.yaml."
  type        = string
  default     = "trainyard"
}

variable "service_account" {
  description = "Kubernetes service account of the runs' pods, as in ../cluster/trainer.yaml."
  type        = string
  default     = "trainer"
}

variable "submitters" {
  description = "Who submits runs, as ARNs of IAM roles or users: the cluster knows them as the group in ../cluster/submitter.yaml."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for it in var.submitters : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/.+$", it))])
    error_message = "Each is arn:aws:iam::ACCOUNT:role/NAME or arn:aws:iam::ACCOUNT:user/NAME."
  }
}

variable "control_plane_cidrs" {
  description = "Networks that may reach the new cluster's API server; all networks if empty."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for it in var.control_plane_cidrs : can(cidrnetmask(it))])
    error_message = "Each is an IPv4 network such as 203.0.113.0/24."
  }
}

variable "instance_type" {
  description = "Machine type of the runs' nodes in the new cluster, of the families c, m or r: a gang's workers are alike."
  type        = string
  default     = "c7i.xlarge"

  validation {
    condition     = can(regex("^[cmr][5-9][a-z-]*\\.[0-9]*x?large$", var.instance_type))
    error_message = "A type of c, m or r from the fifth generation on, such as c7i.xlarge."
  }
}

variable "delete_runs_after_days" {
  description = "Age in days at which objects below runs/ are deleted, results too; null keeps them."
  type        = number
  default     = null

  validation {
    condition     = var.delete_runs_after_days == null ? true : var.delete_runs_after_days >= 1
    error_message = "A number of days from 1 on, or null."
  }
}

variable "keep_deleted_days" {
  description = "Days for which deleted and overwritten objects can be restored, and are paid for."
  type        = number
  default     = 7

  validation {
    condition     = var.keep_deleted_days >= 1
    error_message = "A number of days from 1 on."
  }
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the new cluster."
  type        = bool
  default     = true
}
