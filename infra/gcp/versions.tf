terraform {
  required_version = ">= 1.5"

  required_providers {
    google = {
      source = "hashicorp/google"
      # `terraform init` writes the exact version and its checksums to .terraform.lock.hcl, which
      # belongs in your version control.
      version = ">= 6.50, < 8.0"
    }
  }
}

provider "google" {
  project = var.project_id
  region  = local.region
}
