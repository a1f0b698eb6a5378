import type { Client } from 'lease-core'
import { clientOver } from 'lease-core/adapter'
import { EtcdSubstrate } from './etcd-substrate.ts'
import { parseOptions, type EtcdOptions } from './options.ts'

/**
 * A client for the leases of one namespace in etcd. Nothing is sent before the first call.
 *
 * @throws ErrNotValid with every problem of the options
 */
export function etcdClient(options: EtcdOptions): Client {
  return clientOver(
    parseOptions(options, { client: true }),
    (own, onWarning) => new EtcdSubstrate({ ...own, onWarning }),
  )
}
