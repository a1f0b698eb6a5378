import { Etcd3, type IOptions } from 'etcd3'
import { failFast } from 'lease-etcd'

/** A client with the driver's defaults: thousands of calls at once may take as long as they take. */
export function openEtcd(url: string): Etcd3 {
  return connected(url, {})
}

/** A client as our documentation recommends it. */
export function openEtcdToFailFast(url: string): Etcd3 {
  return connected(url, failFast())
}

/** With a connection that it shares with no other client of this process. */
function connected(url: string, options: Partial<IOptions>): Etcd3 {
  const grpcOptions = { ...options.grpcOptions, 'grpc.use_local_subchannel_pool': 1 }
  return new Etcd3({ hosts: url.split(','), ...options, grpcOptions })
}
