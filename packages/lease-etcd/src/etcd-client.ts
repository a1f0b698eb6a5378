import { SubstrateClient, type Client } from 'lease-core'
import { EtcdSubstrate } from './etcd-substrate.ts'
import { checkOptions, type EtcdOptions } from './options.ts'

/**
 * A client for the leases of one namespace in etcd. Nothing is sent before the first call.
 *
 * @throws ErrNotValid with every problem of the options
 */
export function etcdClient(options: EtcdOptions): Client {
  checkOptions(options, { client: true })
  const { events, requestTimeout, ...ofSubstrate } = options
  const { clock } = ofSubstrate
  const substrate = new EtcdSubstrate({
    ...ofSubstrate,
    onWarning: (warning) => client.warn(warning),
  })
  const client = new SubstrateClient({ clock, events, requestTimeout, substrate })
  return client
}
