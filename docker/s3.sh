#!/bin/sh
# SeaweedFS, a store that speaks S3, in a folder, with its buckets; for whoever has the keys in
# AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. It takes ten ports from PORT on; S3 is at the first.
#
#   s3.sh FOLDER BUCKET[,BUCKET]... PORT ADDRESS
set -eu
folder=$1 buckets=$2 port=$3 address=$4
umask 077
mkdir -p "$folder"
export TMPDIR="$folder" # for its own logs
exec weed mini -dir="$folder" -bucket="$buckets" -ip=127.0.0.1 -ip.bind="$address" -s3.port="$port" \
  -master.port=$((port + 1)) -master.port.grpc=$((port + 2)) \
  -volume.port=$((port + 3)) -volume.port.grpc=$((port + 4)) \
  -filer.port=$((port + 5)) -filer.port.grpc=$((port + 6)) \
  -admin.port=$((port + 7)) -admin.port.grpc=$((port + 8)) \
  -s3.port.grpc=$((port + 9)) -s3.port.iceberg=0 -s3.port.lance=0 -webdav=false -admin.ui=false -master.telemetry=false
