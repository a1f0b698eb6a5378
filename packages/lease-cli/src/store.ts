/** Opens a store by its URL. A driver is loaded only if the URL needs it. */
import { LeaseEvents, Manager, reasonOf, sleep, type Client, type Clock } from 'lease-core'
import { brokenNamespaceRule, withoutSecrets, type Substrate } from 'lease-core/adapter'
import type { PostgresPool } from 'lease-postgres'
import type * as DynamodbSdk from '@aws-sdk/client-dynamodb'
import type * as DynamodbAdapter from 'lease-dynamodb'
import { parseDuration } from './durations.ts'
import { CommandEnd, EXIT, wrongUsage } from './exit-codes.ts'
import { optionalPackage } from './optional-package.ts'
import type { Settings } from './settings.ts'
import { parseStoreUrl, shown, type StoreKind, type StoreUrl } from './store-url.ts'
import { lookAtCertificate, postgresTlsOf, tlsFilesOf } from './tls.ts'

/** A store that answers. */
export interface Store {
  readonly kind: StoreKind | 'memory'
  /** For people: which kind, which hosts; no user, no password. */
  readonly address: string
  readonly namespace: string
  readonly manager: Manager
  readonly client: Client
  /** What the client warns of, and what the manager does. */
  readonly events: LeaseEvents
  /** Of PostgreSQL: for `migrate` and `collect`. */
  readonly pool?: PostgresPool | undefined
  /** Of DynamoDB: makes the table, unless it is there. */
  readonly createTable?: (() => Promise<void>) | undefined
  /** A substrate of its own over the same connection, for `doctor`. */
  substrate(): Substrate
  /** Ends all connections. Releases nothing. */
  close(): Promise<void>
}

/** The connection of a store, before anybody knows whether it answers. */
interface Driver {
  /** Resolves when the server has answered. */
  probe(): Promise<void>
  client(namespace: string, options: ClientOptions): Promise<Client>
  substrate(namespace: string): Promise<Substrate>
  readonly pool?: PostgresPool | undefined
  readonly createTable?: (() => Promise<void>) | undefined
  close(): Promise<void>
}

interface ClientOptions {
  readonly events: LeaseEvents
  readonly requestTimeout: number | undefined
}

/** How long a connection may take. */
export const CONNECT_MS = 5_000
/** Between two tries of `--retry`. */
const RETRY_MS = 500

/** How to open it. */
export interface OpenOptions {
  readonly clock: Clock
  /** For so long it is tried again; 0: once. */
  readonly retryMs: number
  readonly signal: AbortSignal
  /** Called before each further try. */
  readonly retrying?: (cause: string) => void
  /** How long a request may take. @default that of the client, which holds need */
  readonly requestMs?: number | undefined
  /** A command on the whole store needs none. */
  readonly needsNamespace?: boolean
}

/**
 * Opens the store, and waits for its first answer.
 *
 * @throws CommandEnd 64: the URL breaks a rule, or no namespace is named
 * @throws CommandEnd 69: the server does not answer, or refuses
 */
export async function openStore(settings: Settings, options: OpenOptions): Promise<Store> {
  const url = parseStoreUrl(settings.url, settings.urlFrom)
  checkPlace(settings, url)
  const namespace = namespaceOf(settings, url, options.needsNamespace ?? true)
  const driver = await driverOf(url, settings)
  try {
    await reach(driver, url, options)
    const events = new LeaseEvents()
    const client = await driver.client(namespace, { events, requestTimeout: options.requestMs })
    const manager = new Manager({ client, events })
    const substrate = await driver.substrate(namespace)
    const close = async (): Promise<void> => {
      await manager.stop()
      await client.close()
      await driver.close()
    }
    const { kind, address } = url
    const { pool, createTable } = driver
    return { kind, address, namespace, manager, client, events, pool, createTable, substrate: () => substrate, close }
  } catch (error) {
    await driver.close().catch(() => {}) // what went wrong first is what the caller must learn
    throw error
  }
}

/** Opens the driver of this URL, and nothing else: for `doctor`, which explains each step. */
export function driverOf(url: StoreUrl, settings: Settings): Promise<Driver> {
  if (url.kind === 'postgres') return postgresDriver(url, settings)
  if (url.kind === 'redis') return redisDriver(url, settings)
  return url.kind === 'etcd' ? etcdDriver(url, settings) : dynamodbDriver(url)
}

/** What says where in a store the leases are. */
const OWN_PLACE: Readonly<Record<StoreKind, string>> = {
  postgres: 'PostgreSQL has --schema and --table',
  redis: 'redis has --prefix',
  etcd: 'etcd has --prefix',
  dynamodb: 'the table of DynamoDB is in its URL: dynamodb://region/table',
}

function checkPlace({ schema, table, prefix }: Settings, { kind }: StoreUrl): void {
  if (kind !== 'postgres' && (schema !== undefined || table !== undefined)) {
    throw wrongUsage(`--schema and --table are of PostgreSQL; ${OWN_PLACE[kind]}`)
  }
  if ((kind === 'postgres' || kind === 'dynamodb') && prefix !== undefined) {
    throw wrongUsage(`--prefix is of Redis and etcd; ${OWN_PLACE[kind]}`)
  }
}

/** The namespace that is named. @throws CommandEnd 64: none is, or it breaks a rule */
export function namespaceOf({ namespace }: Settings, { kind }: StoreUrl, isNeeded: boolean = true): string {
  if (namespace === undefined) {
    if (!isNeeded) return 'none'
    throw wrongUsage(
      'no namespace is named',
      'give -N NAME, or export LEASE_NAMESPACE: the namespace of the client in your program',
    )
  }
  const tagged = kind === 'redis' && /[{}]/.test(namespace) ? 'must not contain { or }' : undefined
  const rule = brokenNamespaceRule(namespace) ?? tagged
  if (rule !== undefined) throw wrongUsage(`the namespace ${rule} (got ${JSON.stringify(namespace.slice(0, 60))})`)
  return namespace
}

async function reach(driver: Driver, url: StoreUrl, { clock, retryMs, signal, retrying }: OpenOptions): Promise<void> {
  const startedMs = clock.monotonic()
  for (;;) {
    try {
      return await withinTime(driver.probe(), clock, signal)
    } catch (failure) {
      if (signal.aborted) throw signal.reason
      const error = (await distrustBelow(failure, url, clock, signal)) ?? failure
      const cause = causeOf(error)
      if (REFUSED_LOGIN.test(cause)) {
        throw new CommandEnd(
          EXIT.unavailable,
          `${url.address}: the server refused the login: ${cause}`,
          ...advice(error),
        )
      }
      if (clock.monotonic() - startedMs >= retryMs) {
        throw new CommandEnd(
          EXIT.unavailable,
          `cannot reach ${url.address}: ${cause}`,
          ...advice(error),
          'lease doctor looks for the cause; --retry waits for the server',
        )
      }
      retrying?.(cause)
      await sleep(clock, RETRY_MS, signal)
    }
  }
}

/**
 * Why the certificate of a node or of a Sentinel is refused: ioredis keeps that to itself, and says that none can be reached. undefined:
 * it is not, or the failure says so itself.
 */
async function distrustBelow(
  failure: unknown,
  url: StoreUrl,
  clock: Clock,
  signal: AbortSignal,
): Promise<Error | undefined> {
  const [first] = url.hosts
  if (!url.tls || url.mode === 'single' || first === undefined || advice(failure).length > 0) return undefined
  const silence = new AbortController()
  const timer = clock.setTimer(CONNECT_MS, () => silence.abort(new Error('it says nothing')))
  try {
    return (await lookAtCertificate(url, first, AbortSignal.any([signal, silence.signal])))?.problem
  } catch (error) {
    return error instanceof Error && !silence.signal.aborted ? error : undefined
  } finally {
    timer.cancel()
  }
}

/** A driver may wait without end for a server that accepts and says nothing. */
async function withinTime(probe: Promise<void>, clock: Clock, signal: AbortSignal): Promise<void> {
  const limit = new AbortController()
  const silence = sleep(clock, CONNECT_MS, AbortSignal.any([limit.signal, signal])).then(() => {
    throw new Error(`no answer within ${CONNECT_MS / 1000} seconds`)
  })
  try {
    await Promise.race([probe, silence])
  } finally {
    limit.abort()
    probe.catch(() => {})
    silence.catch(() => {})
  }
}

/** The words of a driver, without passwords. Node reports a refused connection by its code alone when it has tried several addresses. */
export function causeOf(error: unknown): string {
  const first: unknown = error instanceof AggregateError ? (error.errors[0] ?? error) : error
  const { lastNodeError } = Object(first) as { readonly lastNodeError?: unknown } // of a Cluster of ioredis
  const words = lastNodeError instanceof Error ? `${reasonOf(first)} ${causeOf(lastNodeError)}` : reasonOf(first)
  const code = codeOf(first)
  return withoutSecrets(code === undefined || words.includes(code) ? words : `${words} (${code})`)
}

function codeOf(error: unknown): string | undefined {
  const { code } = Object(error) as { readonly code?: unknown }
  return typeof code === 'string' ? code : undefined
}

/** What to do about it, where the cause shows it. */
export function advice(error: unknown): string[] {
  const cause = causeOf(error)
  const found = ADVICE.find(([pattern]) => pattern.test(cause))
  return found === undefined ? [] : [found[1]]
}

/** The words and codes of each server for a login that it refuses. To wait for another answer is of no use. */
const REFUSED_LOGIN =
  /28P01|28000|\bSASL\b|WRONGPASS|NOAUTH|authentication failed|user name is empty|invalid auth token|authentication is not enabled|Could not load credentials|UnrecognizedClient|security token|request signature|MissingAuthenticationToken/i

/** An answer that only a user gets who has logged in. */
const NO_RIGHT = /NOPERM|permission denied/i

/** What may be wrong with a certificate: the words of Node's TLS and its codes, which drivers hand on. */
const CERTIFICATES: readonly (readonly [RegExp, string])[] = [
  [
    /CERT_HAS_EXPIRED|certificate has expired/i,
    'the certificate of the server has expired: renew it; if it has not, the clock of this machine is wrong',
  ],
  [
    /CERT_NOT_YET_VALID|not yet valid/i,
    'the certificate of the server begins later: is the clock of this machine right?',
  ],
  [
    /ALTNAME_INVALID|altnames/i,
    'the certificate of the server is for other hosts: write one of them into the URL, or have this host added to the certificate',
  ],
  [
    /certificate required|alert (number )?(116|40|42)|bad certificate|handshake failure/i,
    'the server wants a certificate of its clients: name it (sslcert=… and sslkey=… of PostgreSQL, ?cert=… and ?key=… of Redis and etcd)',
  ],
  [
    /alert (number )?48|alert unknown ca/i,
    'the server does not trust the certificate of this client: which authority has signed it?',
  ],
  [
    /SELF_SIGNED|self.signed|UNABLE_TO_(GET|VERIFY)|unable to (get|verify)|issuer|certificate/i,
    'this machine does not trust who has signed the certificate of the server: name the authority (sslrootcert=… of PostgreSQL, ?ca=… of Redis and etcd)',
  ],
]

const ADVICE: readonly (readonly [RegExp, string])[] = [
  ...CERTIFICATES,
  [/ECONNREFUSED/, 'nothing listens there: is the server started, are host and port right?'],
  [
    /Could not load credentials|security token|request signature|MissingAuthenticationToken/i,
    'AWS does not know who this is: give AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role',
  ],
  [/Region is missing/, 'write the region into the URL, dynamodb://eu-west-1/table, or set AWS_REGION'],
  [/ENOTFOUND|EAI_AGAIN|Name resolution failed/i, 'DNS does not know this host'],
  [/no answer|ETIMEDOUT|timeout|DEADLINE/i, 'a firewall may drop the packets, or the server hangs'],
  [
    /wrong version number|packet length too long|EPROTO|does not support SSL/i,
    'one side speaks TLS and the other does not: compare postgres sslmode, redis:// and rediss://, etcd:// and etcds://',
  ],
  [/authentication is not enabled/i, 'the server wants no login: take user and password out of the URL'],
  [
    /NOAUTH|user name is empty|password must be a string/i,
    'the server wants a login, and the URL has none or no password: write user:password@ before the host',
  ],
  [
    /28P01|28000|password|SASL|WRONGPASS|authentication/i,
    'user or password are wrong; in a URL @ : / ? # need %40 %3A %2F %3F %23',
  ],
  [/database .* does not exist|3D000/, 'create the database, or correct the end of the URL'],
]

async function postgresDriver(url: StoreUrl, settings: Settings): Promise<Driver> {
  const [{ default: pg }, adapter] = await Promise.all([import('pg'), import('lease-postgres')])
  await postgresTlsOf(url) // a file that cannot be read is no server that cannot be reached
  const pool = new pg.Pool({
    connectionString: url.text,
    connectionTimeoutMillis: CONNECT_MS,
    keepAlive: true,
    max: 6, // as many as the adapter uses at once
    application_name: 'lease-cli',
  })
  pool.on('error', nothing) // an idle connection broke; the pool has removed it
  pool.on('connect', (connection) => connection.on('error', nothing))
  const { schema, table } = settings
  const options = (namespace: string) => ({ pool, namespace, schema, table })
  return {
    pool,
    probe: async () => void (await pool.query('SELECT 1')),
    client: async (namespace, own) => adapter.postgresClient({ ...options(namespace), ...own }),
    substrate: async (namespace) => new adapter.PostgresSubstrate(options(namespace)),
    close: () => pool.end(),
  }
}

async function redisDriver(url: StoreUrl, settings: Settings): Promise<Driver> {
  const [{ Cluster, Redis }, adapter] = await Promise.all([import('ioredis'), import('lease-redis')])
  const { username, password, hosts, mode, parameters } = url
  const tls = tlsFilesOf(url)
  const path = url.path.split('/')
  const db = database(mode === 'sentinel' ? path[1] : path[0])
  const one = {
    lazyConnect: true,
    connectTimeout: CONNECT_MS,
    socketTimeout: CONNECT_MS, // a host that vanished says nothing
    maxRetriesPerRequest: 1,
    ...(tls === undefined ? {} : { tls }),
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
  }
  const [first] = hosts
  const connection =
    mode === 'cluster'
      ? new Cluster([...hosts], {
          lazyConnect: true,
          redisOptions: one,
          ...(tls === undefined ? {} : { dnsLookup: asItIs }),
        })
      : mode === 'sentinel'
        ? new Redis({
            ...one,
            db,
            name: path[0] ?? '',
            sentinels: [...hosts],
            ...(tls === undefined ? {} : { sentinelTLS: tls, enableTLSForSentinelMode: true }),
            ...namedIn(parameters, ['sentinelUsername', 'sentinelPassword']),
          })
        : new Redis({ ...one, db, host: first?.host ?? '', port: first?.port ?? 0 })
  let lastError: unknown
  connection.on('error', (error: unknown) => (lastError = error))
  // `connect()` settles only when a Sentinel names a master. Until then there is an error each time that all of them were asked.
  const inVain = (): Promise<void> =>
    new Promise((_, reject) => mode === 'sentinel' && connection.once('error', (error: unknown) => reject(error)))
  const { prefix } = settings
  const options = (namespace: string) => ({ redis: connection, namespace, prefix })
  return {
    probe: async () => {
      const ask = async (): Promise<void> => {
        if (connection.status === 'wait' || connection.status === 'end' || connection.status === 'close')
          await connection.connect()
        await ignoreNoRight(connection.ping())
      }
      try {
        await Promise.race([ask(), inVain()])
      } catch (error) {
        throw lastError ?? error // "Connection is closed." says less than what closed it
      }
    },
    client: async (namespace, own) => adapter.redisClient({ ...options(namespace), ...own }),
    substrate: async (namespace) => new adapter.RedisSubstrate(options(namespace)),
    close: async () => connection.disconnect(),
  }
}

async function etcdDriver(url: StoreUrl, settings: Settings): Promise<Driver> {
  const [{ Etcd3 }, adapter] = await Promise.all([import('etcd3'), import('lease-etcd')])
  const { username, password, hosts, tls } = url
  const { ca, cert, key } = tlsFilesOf(url) ?? {}
  const credentials = { rootCertificate: ca, certChain: cert, privateKey: key }
  const etcd = new Etcd3({
    ...adapter.failFast(),
    hosts: hosts.map((host) => `${tls ? 'https' : 'http'}://${shown(host)}`),
    ...(username === undefined ? {} : { auth: { username, password: password ?? '' } }),
    ...(ca === undefined && cert === undefined ? {} : { credentials: credentials as { rootCertificate: Buffer } }),
  })
  const { prefix } = settings
  const options = (namespace: string) => ({ etcd, namespace, prefix })
  return {
    probe: () => ignoreNoRight(etcd.get('lease-cli-probe').exec()),
    client: async (namespace, own) => adapter.etcdClient({ ...options(namespace), ...own }),
    substrate: async (namespace) => new adapter.EtcdSubstrate(options(namespace)),
    close: async () => etcd.close(),
  }
}

/** Region and credentials come as the SDK finds them, so that they are in no URL and in no message. */
async function dynamodbDriver({ region, path: table, parameters }: StoreUrl): Promise<Driver> {
  const skew = parameters.get('maxSkew')
  const maxSkewMs = skew === undefined ? undefined : parseDuration(skew, '?maxSkew= of the URL', { zero: true })
  const sdk = await optionalPackage<typeof DynamodbSdk>('@aws-sdk/client-dynamodb', ['lease-dynamodb'])
  const adapter = await optionalPackage<typeof DynamodbAdapter>('lease-dynamodb', ['@aws-sdk/client-dynamodb'])
  const endpoint = parameters.get('endpoint')
  const client = new sdk.DynamoDBClient({
    ...(region === undefined ? {} : { region }),
    ...(endpoint === undefined ? {} : { endpoint }),
    // Without the last the SDK only logs that the time is over.
    requestHandler: { connectionTimeout: CONNECT_MS, requestTimeout: CONNECT_MS, throwOnRequestTimeout: true },
  })
  const options = (namespace: string) => ({ client, table, namespace, maxSkewMs })
  return {
    probe: async () => {
      try {
        await client.send(new sdk.DescribeTableCommand({ TableName: table }))
      } catch (error) {
        // The server knows who asks. What is missing, table or right, each command says by itself.
        if (!['ResourceNotFoundException', 'AccessDeniedException'].includes((error as Error).name)) throw error
      }
    },
    client: async (namespace, own) => adapter.dynamodbClient({ ...options(namespace), ...own }),
    substrate: async (namespace) => new adapter.DynamodbSubstrate(options(namespace)),
    createTable: () => adapter.createTable({ client, table }),
    close: async () => client.destroy(),
  }
}

/** A user without the right to this answer has been let in; what the command needs, the command asks for. */
async function ignoreNoRight(answer: Promise<unknown>): Promise<void> {
  await answer.catch((error: unknown) => {
    if (!NO_RIGHT.test(causeOf(error))) throw error
  })
}

/** The names of a Cluster over TLS are in its certificates. */
function asItIs(address: string, done: (error: null, address: string) => void): void {
  done(null, address)
}

function namedIn(parameters: ReadonlyMap<string, string>, names: readonly string[]): Record<string, string> {
  return Object.fromEntries(names.flatMap((name) => (parameters.has(name) ? [[name, parameters.get(name) ?? '']] : [])))
}

function database(text: string = ''): number {
  if (text === '') return 0
  if (!/^\d{1,6}$/.test(text))
    throw wrongUsage('the database of Redis in the URL must be a number', 'write redis://host:6379/0')
  return Number(text)
}

function nothing(): void {}
