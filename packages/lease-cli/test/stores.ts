/** The servers on which the command is tried: by URL, as people give them. */
import {
  dynamodbTarget,
  etcdTargets,
  freshDatabase,
  postgresTargets,
  redisTargets,
  type FreshDatabase,
} from 'lease-servers'
import { openStore, type Store } from '#src/store.ts'
import { systemClock } from 'lease-core'
import { leaseHere } from './screen.ts'

/** A server. */
export interface TestServer {
  /** For titles. */
  readonly name: string
  /** Call it in `before`. */
  open(): Promise<string>
  close(): Promise<void>
}

/** One of each substrate. Call it while the file is loaded. */
export function testServers(): readonly TestServer[] {
  const [postgres] = postgresTargets()
  const [redis] = redisTargets('server')
  const [etcd] = etcdTargets(1)
  if (postgres === undefined || redis === undefined || etcd === undefined) throw new Error('a server is missing')
  const dynamodb = dynamodbTarget()
  let database: FreshDatabase | undefined
  return [
    {
      name: 'postgres',
      open: async () => {
        database = await freshDatabase(postgres)
        await leaseHere(['migrate'], { LEASE_URL: database.url })
        return database.url
      },
      close: async () => database?.drop(),
    },
    { name: 'redis', open: async () => redis.url, close: async () => {} },
    { name: 'etcd', open: async () => etcdUrl(etcd.endpoints), close: async () => {} },
    {
      name: 'dynamodb',
      open: async () => {
        const url = dynamodbUrl(dynamodb)
        await leaseHere(['migrate'], { LEASE_URL: url })
        return url
      },
      close: async () => {},
    },
  ]
}

/** The URL of these endpoints. */
export function etcdUrl(endpoints: readonly string[]): string {
  return `etcd://${endpoints.map((endpoint) => endpoint.replace('http://', '')).join(',')}`
}

// The SDK takes them from here, as people do; and it tells of the end of Node 20 in every process.
process.env['AWS_ACCESS_KEY_ID'] ??= 'test'
process.env['AWS_SECRET_ACCESS_KEY'] ??= 'test'
process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] = 'true'

/** The URL of a table that no other test uses, and that is not there yet. */
export function dynamodbUrl({ endpoint }: { readonly endpoint: string }): string {
  return `dynamodb://us-east-1/${unique()}?endpoint=${endpoint}`
}

/** A store of this process, beside the command. */
export async function besides(url: string, namespace: string): Promise<Store> {
  const settings = { url, urlFrom: 'the test', namespace, schema: undefined, table: undefined, prefix: undefined }
  const store = await openStore(settings, { clock: systemClock, retryMs: 0, signal: new AbortController().signal })
  store.events.subscribe(() => {}) // servers for tests are fast, and not safe: that they warn of it is no news
  return store
}

let count = 0
/** A namespace of its own for each test. */
export function unique(): string {
  return `cli-${process.pid}-${++count}`
}
