# A cluster in EKS Auto Mode, unless there is one already: AWS starts nodes for pods that wait and
# removes them again, and brings the Pod Identity agent, DNS and a network that enforces policies.
resource "aws_eks_cluster" "this" {
  count = local.create

  name                = var.name
  role_arn            = aws_iam_role.cluster[0].arn
  deletion_protection = var.deletion_protection

  bootstrap_self_managed_addons = false # Auto Mode brings its own

  access_config {
    authentication_mode                         = "API"
    bootstrap_cluster_creator_admin_permissions = true # applies ../cluster
  }

  compute_config {
    enabled       = true
    node_pools    = ["general-purpose", "system"]
    node_role_arn = aws_iam_role.node[0].arn
  }

  kubernetes_network_config {
    elastic_load_balancing {
      enabled = true # Auto Mode is on or off as a whole; the quota in ../cluster allows no load balancer
    }
  }

  storage_config {
    block_storage {
      enabled = true
    }
  }

  vpc_config {
    subnet_ids              = aws_subnet.private[*].id
    endpoint_private_access = true
    endpoint_public_access  = true
    public_access_cidrs     = length(var.control_plane_cidrs) > 0 ? var.control_plane_cidrs : ["0.0.0.0/0"]
  }

  depends_on = [aws_iam_role_policy_attachment.cluster, aws_iam_role_policy_attachment.node]
}

# ../cluster/submitter.yaml says what this group may do.
resource "aws_eks_access_entry" "submitter" {
  for_each = var.submitters

  cluster_name      = local.cluster
  principal_arn     = each.key
  kubernetes_groups = ["trainyard-submitters"]
}

resource "aws_iam_role" "cluster" {
  count = local.create

  name               = "${var.name}-cluster"
  assume_role_policy = data.aws_iam_policy_document.cluster_trust.json
}

data "aws_iam_policy_document" "cluster_trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["eks.amazonaws.com"]
    }
  }
}

# What Auto Mode asks for: https://docs.aws.amazon.com/eks/latest/userguide/auto-cluster-iam-role.html
resource "aws_iam_role_policy_attachment" "cluster" {
  for_each = toset(local.create == 0 ? [] : ["EKSCluster", "EKSCompute", "EKSBlockStorage", "EKSLoadBalancing", "EKSNetworking"])

  role       = aws_iam_role.cluster[0].name
  policy_arn = "arn:${data.aws_partition.this.partition}:iam::aws:policy/Amazon${each.key}Policy"
}

resource "aws_iam_role" "node" {
  count = local.create

  name               = "${var.name}-node"
  assume_role_policy = data.aws_iam_policy_document.node_trust.json
}

data "aws_iam_policy_document" "node_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# Nodes join and pull images; they cannot read the bucket.
resource "aws_iam_role_policy_attachment" "node" {
  for_each = toset(local.create == 0 ? [] : ["AmazonEKSWorkerNodeMinimalPolicy", "AmazonEC2ContainerRegistryPullOnly"])

  role       = aws_iam_role.node[0].name
  policy_arn = "arn:${data.aws_partition.this.partition}:iam::aws:policy/${each.key}"
}
