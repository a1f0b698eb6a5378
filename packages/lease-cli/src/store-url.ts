/** The URL of a store, taken apart. URLs of several hosts are no URLs for the platform, so they are read here. */
import { wrongUsage } from './exit-codes.ts'

/** Which substrate. */
export type StoreKind = 'postgres' | 'redis' | 'etcd' | 'dynamodb'

/** One server. */
export interface HostPort {
  readonly host: string
  readonly port: number
}

/** A URL, taken apart. */
export interface StoreUrl {
  readonly kind: StoreKind
  /** Of Redis: what stands behind the hosts. */
  readonly mode: 'single' | 'cluster' | 'sentinel'
  readonly tls: boolean
  /** Of DynamoDB: the host of `?endpoint=`; without one, the SDK knows the host. */
  readonly hosts: readonly HostPort[]
  /** Of DynamoDB: the region, unless the environment names it. */
  readonly region: string | undefined
  readonly username: string | undefined
  readonly password: string | undefined
  /** What follows the hosts, without its slash: database, or master and database, or table. */
  readonly path: string
  readonly parameters: ReadonlyMap<string, string>
  /** As it was given, with the password: for a driver that reads URLs. */
  readonly text: string
  /** For people: without user and password. */
  readonly address: string
}

const SCHEMES: Readonly<Record<string, readonly [StoreKind, StoreUrl['mode'], tls: boolean, port: number]>> = {
  postgres: ['postgres', 'single', false, 5432],
  postgresql: ['postgres', 'single', false, 5432],
  redis: ['redis', 'single', false, 6379],
  rediss: ['redis', 'single', true, 6379],
  'redis+cluster': ['redis', 'cluster', false, 6379],
  'rediss+cluster': ['redis', 'cluster', true, 6379],
  'redis+sentinel': ['redis', 'sentinel', false, 26_379],
  'rediss+sentinel': ['redis', 'sentinel', true, 26_379],
  etcd: ['etcd', 'single', false, 2379],
  etcds: ['etcd', 'single', true, 2379],
  dynamodb: ['dynamodb', 'single', true, 443],
}

/** Parameters of Redis and etcd; those of PostgreSQL are libpq's. */
const TLS_FILES = ['ca', 'cert', 'key'] as const
const SENTINEL = ['sentinelUsername', 'sentinelPassword'] as const
const DYNAMODB = ['endpoint', 'maxSkew'] as const

/**
 * Takes the URL apart.
 *
 * @param from where it came from, for the message
 * @throws CommandEnd 64; the message never has the URL in it, which may have a password
 */
export function parseStoreUrl(text: string, from: string): StoreUrl {
  const parts = /^([a-z][a-z+]*):\/\/(?:([^/?#]*)@)?([^/?#@]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/i.exec(text)
  const scheme = parts?.[1]?.toLowerCase() ?? ''
  const known = SCHEMES[scheme]
  if (parts === null || known === undefined) {
    const got = scheme === '' ? 'no URL' : `the scheme ${scheme}://`
    throw wrongUsage(
      `${from} must be the URL of a store (got ${got})`,
      'postgres://user:password@host:5432/database?sslmode=verify-full',
      'redis://host:6379/0   rediss://host   redis+cluster://host1,host2   redis+sentinel://host1,host2/master',
      'etcd://host1:2379,host2:2379   etcds://host:2379?ca=/etc/ssl/etcd-ca.pem',
      'dynamodb://eu-west-1/table   dynamodb://eu-west-1/table?endpoint=http://127.0.0.1:8000',
    )
  }
  const [kind, mode, tls, port] = known
  const [, , credentials, authority = '', path = '', query = ''] = parts
  const parameters = parametersIn(query, from)
  const hosts =
    kind === 'dynamodb'
      ? endpointHosts(parameters.get('endpoint'), from)
      : authority === '' && kind === 'postgres'
        ? []
        : authority.split(',').map((one) => hostPort(one, port, from))
  if (mode === 'single' && kind === 'redis' && hosts.length > 1) {
    throw wrongUsage(
      `${from} names several hosts`,
      'of a Cluster write redis+cluster://host1,host2; with Sentinels redis+sentinel://host1,host2/master',
    )
  }
  const masters = mode === 'sentinel' && path.split('/')[0] === ''
  if (masters)
    throw wrongUsage(`${from} names Sentinels and no master`, 'write redis+sentinel://host1:26379,host2:26379/mymaster')
  if (kind === 'dynamodb') checkDynamodb({ credentials, region: authority, table: path }, from)
  const [username, password] =
    credentials === undefined ? [] : splitAt(credentials, ':').map((part) => decoded(part, from))
  const allowed: readonly string[] =
    kind === 'dynamodb' ? DYNAMODB : mode === 'sentinel' ? [...TLS_FILES, ...SENTINEL] : TLS_FILES
  const unknown = kind === 'postgres' ? undefined : [...parameters.keys()].find((name) => !allowed.includes(name))
  if (unknown !== undefined) {
    throw wrongUsage(
      `${from} has an unknown parameter in its URL: ${unknown.slice(0, 40)}`,
      `known are ${allowed.join(', ')}`,
    )
  }
  const places = hosts.map(shown).join(', ')
  const address =
    kind === 'dynamodb'
      ? `table ${decoded(path, from)} of dynamodb at ${places || authority || 'the region of the environment'}`
      : `${kind} at ${places || 'the local socket'}`
  return {
    kind,
    mode,
    tls: tls && !/^http:/i.test(parameters.get('endpoint') ?? ''),
    hosts,
    region: kind === 'dynamodb' && authority !== '' ? authority : undefined,
    username: username === '' ? undefined : username,
    password: password === '' ? undefined : password,
    path: decoded(path, from),
    parameters,
    text,
    address,
  }
}

/** Of DynamoDB. @throws CommandEnd 64 */
function checkDynamodb(
  { credentials, region, table }: { credentials: string | undefined; region: string; table: string },
  from: string,
): void {
  const example = 'write dynamodb://eu-west-1/table'
  if (credentials !== undefined) {
    throw wrongUsage(
      `${from} has credentials in its URL, and a URL of DynamoDB has none`,
      `${example}; credentials come as the AWS SDK finds them: AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a role`,
    )
  }
  if (!/^[a-z\d-]*$/.test(region)) {
    throw wrongUsage(
      `${from} has no proper region in its URL`,
      `${example}, or dynamodb:///table for the region of AWS_REGION or of the profile; the host of another server is ?endpoint=http://host:8000`,
    )
  }
  if (table === '') throw wrongUsage(`${from} names no table`, example)
}

function endpointHosts(endpoint: string | undefined, from: string): HostPort[] {
  if (endpoint === undefined) return []
  const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined
  const isPlain = url?.username === '' && url.password === '' && url.search === '' && url.hash === ''
  if (!isPlain || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw wrongUsage(`${from} has no proper endpoint in its URL`, 'write ?endpoint=http://127.0.0.1:8000')
  }
  const port = url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port)
  return [{ host: url.hostname.replace(/^\[(.*)\]$/, '$1'), port }]
}

/** `host:port`, with brackets around an address of IPv6. */
export function shown({ host, port }: HostPort): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`
}

function hostPort(text: string, port: number, from: string): HostPort {
  const parts = /^(?:\[([\da-f:.%]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/i.exec(text)
  const host = parts?.[1] ?? parts?.[2]
  const given = parts?.[3] === undefined ? port : Number(parts[3])
  if (host === undefined || given < 1 || given > 65_535) {
    throw wrongUsage(
      `${from} has no proper host in its URL`,
      'write host:port, several with commas; a password with @ : / ? # in it needs %40 %3A %2F %3F %23',
    )
  }
  return { host, port: given }
}

function splitAt(text: string, separator: string): string[] {
  const at = text.indexOf(separator)
  return at === -1 ? [text] : [text.slice(0, at), text.slice(at + 1)]
}

function decoded(text: string, from: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw wrongUsage(`${from} has a % in its URL that begins no escape`, 'write %25 for a percent sign')
  }
}

function parametersIn(query: string, from: string): ReadonlyMap<string, string> {
  const pairs = query.split('&').filter((pair) => pair !== '')
  return new Map(pairs.map((pair) => splitAt(pair, '=')).map(([name = '', value = '']) => [name, decoded(value, from)]))
}
