"""Python loads this before moto: of the managed policies of AWS, which moto reads anew after every reset, only those that tests attach."""

import json

from moto.iam import models

NAMES = {"AWSLambdaBasicExecutionRole", "AWSLambdaVPCAccessExecutionRole", "AWSXRayDaemonWriteAccess", "AmazonS3ReadOnlyAccess"}

_all = json.loads(models.aws_managed_policies_data)
models.aws_managed_policies_data = json.dumps({name: data for name, data in _all.items() if name in NAMES})
