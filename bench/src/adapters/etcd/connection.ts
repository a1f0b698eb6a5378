import { Etcd3 } from 'etcd3'
import { failFast } from 'lease-etcd'

/** A client as an application would make it, with a connection that it shares with no other client of this process. */
export function openEtcd(url: string): Etcd3 {
  const options = failFast()
  const grpcOptions = { ...options.grpcOptions, 'grpc.use_local_subchannel_pool': 1 }
  return new Etcd3({ hosts: url.split(','), ...options, grpcOptions })
}
