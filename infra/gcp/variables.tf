variable "project_id" {
  description = "Google Cloud project that everything is created in."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "The project's ID (not its name or number): 6 to 30 of a-z, 0-9 and '-'."
  }
}

variable "zone" {
  description = "Zone of the cluster. Bucket and registry are in its region, so that reading data costs nothing."
  type        = string
  default     = "us-central1-a"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+-[a-z]$", var.zone))
    error_message = "A zone such as us-central1-a, not a region."
  }
}

variable "name" {
  description = "Name of the cluster, the network and the registry, and the start of the nodes' service account."
  type        = string
  default     = "trainyard"

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$", var.name))
    error_message = "1 to 20 of a-z, 0-9 and '-', starting with a letter, not ending with '-'."
  }
}

variable "bucket_name" {
  description = "Name of the bucket, unique in all of Cloud Storage; PROJECT-NAME if null."
  type        = string
  default     = null

  validation {
    condition     = var.bucket_name == null || can(regex("^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "3 to 63 of a-z, 0-9, '-' and '_', without gs://."
  }
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
  description = "Who submits runs, as IAM members: they may reach the cluster, use the bucket's objects and push images."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for it in var.submitters : can(regex("^(user|group|serviceAccount):[^@ ]+@[^@ ]+$", it))])
    error_message = "Each is user:ADDRESS, group:ADDRESS or serviceAccount:ADDRESS."
  }
}

variable "rbac_security_group" {
  description = "gke-security-groups@YOUR_DOMAIN, for Google groups as subjects of a RoleBinding; null for none."
  type        = string
  default     = null

  validation {
    condition     = var.rbac_security_group == null || can(regex("^gke-security-groups@.+$", var.rbac_security_group))
    error_message = "GKE accepts no other name than gke-security-groups@YOUR_DOMAIN."
  }
}

variable "control_plane_cidrs" {
  description = "Networks that may reach the API server, name to CIDR; all networks if empty."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for it in values(var.control_plane_cidrs) : can(cidrnetmask(it))])
    error_message = "Each value is an IPv4 network such as 203.0.113.0/24."
  }
}

variable "cpu_pool" {
  description = "Nodes for runs without GPUs: none while there is no run, max_nodes at most."
  type = object({
    machine_type = optional(string, "e2-standard-4")
    max_nodes    = optional(number, 4)
    spot         = optional(bool, true)
  })
  default = {}

  validation {
    condition     = var.cpu_pool.max_nodes >= 1 && floor(var.cpu_pool.max_nodes) == var.cpu_pool.max_nodes
    error_message = "max_nodes is a whole number from 1 on."
  }
}

variable "gpu_pool" {
  description = "Nodes for runs with GPUs, likewise; null for none. The zone must have the GPU, and the project quota for it."
  type = object({
    machine_type = optional(string, "g2-standard-8")
    gpu_type     = optional(string, "nvidia-l4")
    gpu_count    = optional(number, 1)
    max_nodes    = optional(number, 1)
    spot         = optional(bool, true)
  })
  default = null

  validation {
    condition     = var.gpu_pool == null ? true : var.gpu_pool.max_nodes >= 1 && var.gpu_pool.gpu_count >= 1
    error_message = "max_nodes and gpu_count are whole numbers from 1 on."
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

variable "soft_delete_days" {
  description = "Days for which deleted objects can be restored, and are paid for; 0 for none."
  type        = number
  default     = 7

  validation {
    condition     = var.soft_delete_days == 0 || (var.soft_delete_days >= 7 && var.soft_delete_days <= 90)
    error_message = "Cloud Storage takes 0, or 7 to 90."
  }
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to delete the cluster."
  type        = bool
  default     = true
}
