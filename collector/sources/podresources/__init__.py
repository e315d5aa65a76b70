"""The kubelet's pod resources interface: messages generated from podresources.proto by `make proto`."""
