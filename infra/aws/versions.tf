terraform {
  required_version = ">= 1.5"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # `terraform init` writes the exact version and its checksums to .terraform.lock.hcl, which
      # belongs in your version control.
      version = ">= 6.25, < 7.0"
    }
  }
}

provider "aws" {
  region = var.region
}
