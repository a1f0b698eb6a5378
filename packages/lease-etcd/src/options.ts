/** Options, checked once at the edge: every problem at once, no coercion, nothing ignored. */
import { hasMethods, type Clock } from 'lease-core'
import { readAdapterOptions, type SubstrateClientOptions, type SubstrateWarning } from 'lease-core/adapter'
import type { EtcdDriver } from './driver.ts'

/** What the substrate needs to know. */
export interface EtcdSubstrateOptions {
  /** The way to the servers: `new Etcd3({ hosts, ...failFast() })`. It stays yours: close it after the client. */
  readonly etcd: EtcdDriver
  /** Leases of different namespaces know nothing of each other. At most 255 bytes. */
  readonly namespace: string
  /** What the keys in the store begin with; ends with a slash. At most 255 bytes. @default "lease/" */
  readonly prefix?: string | undefined
  /** Whether vacated leases are heard of by a watch; `false`: waiting works by timer alone. @default true */
  readonly watch?: boolean | undefined
  /** @default the machine's clocks */
  readonly clock?: Clock | undefined
  /**
   * Is called for each lease that a read passes over because somebody else wrote a key of it, once for each lease, and when the watch
   * has failed many times in a row.
   * @default nothing; `etcdClient` makes a `warning` event of it
   */
  readonly onWarning?: ((warning: SubstrateWarning) => void) | undefined
}

/** What `etcdClient` needs to know. */
export interface EtcdOptions
  extends Omit<EtcdSubstrateOptions, 'onWarning'>, Omit<SubstrateClientOptions, 'substrate' | 'clock'> {}

/** The options, each read once; `client` says whose they are. @throws ErrNotValid with every problem */
export function parseOptions<O extends EtcdSubstrateOptions>(given: O, { client }: { readonly client: boolean }): O {
  const own = ['etcd', 'prefix', 'watch', 'clock', ...(client ? [] : ['onWarning'])]
  const options = readAdapterOptions(given, own, { client, secret: ['etcd'] })
  options.fault('etcd', brokenEtcdRule(options.read.etcd))
  options.ruled('prefix', brokenPrefixRule)
  options.boolean('watch')
  options.function('onWarning')
  options.finish()
  return options.read
}

function brokenEtcdRule(etcd: Partial<EtcdDriver> | undefined | null): string | undefined {
  if (!isDriver(etcd)) return 'must be an Etcd3: new Etcd3({ ...failFast(), hosts })'
  if (etcd.prefix.length > 0) return 'must be the Etcd3 itself, not a namespace() of it: use the option prefix instead'
  const { hosts = [] } = (etcd as { readonly options?: { readonly hosts?: string | readonly string[] } }).options ?? {}
  const hasUser = [hosts].flat().some((host) => /^(\w+:\/\/)?[^/]*@/.test(host))
  return hasUser ? 'must not have a user or password in its hosts: give its option auth' : undefined
}

function isDriver(etcd: Partial<EtcdDriver> | undefined | null): etcd is EtcdDriver {
  return (
    hasMethods(etcd?.kv, 'txn', 'range') &&
    hasMethods(etcd?.leaseClient, 'leaseGrant') &&
    hasMethods(etcd?.watchClient, 'watch') &&
    Buffer.isBuffer(etcd?.prefix)
  )
}

function brokenPrefixRule(prefix: unknown): string | undefined {
  if (typeof prefix !== 'string') return 'must be a string'
  if (!prefix.endsWith('/')) return 'must end with a slash'
  if (prefix.includes('\0') || /\p{Cs}/u.test(prefix)) return 'must be well-formed Unicode without NUL'
  return Buffer.byteLength(prefix) > 255 ? 'must be at most 255 bytes' : undefined
}
