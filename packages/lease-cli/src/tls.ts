/** TLS: what a URL says of it, and what is wrong with the certificate of a server. */
import { readFileSync } from 'node:fs'
import { connect as connectPlain, isIP, type Socket } from 'node:net'
import { checkServerIdentity, connect } from 'node:tls'
import { reasonOf } from 'lease-core'
import { wrongUsage } from './exit-codes.ts'
import type { HostPort, StoreUrl } from './store-url.ts'

/** The certificates that a URL names, read. */
export interface TlsFiles {
  readonly ca?: Buffer | string | undefined
  readonly cert?: Buffer | string | undefined
  readonly key?: Buffer | string | undefined
}

const NAMES = ['ca', 'cert', 'key'] as const

/**
 * The files of `?ca=`, `?cert=` and `?key=` of Redis and etcd; undefined: the URL is one without TLS.
 *
 * @throws CommandEnd 64: a file cannot be read, one of `cert` and `key` is missing, or the URL has no TLS and names files
 */
export function tlsFilesOf({ kind, tls, parameters }: StoreUrl): TlsFiles | undefined {
  const named = NAMES.filter((name) => parameters.has(name))
  if (!tls) {
    const [first] = named
    if (first === undefined) return undefined
    const secure = kind === 'etcd' ? 'etcds://' : 'rediss://, rediss+cluster:// or rediss+sentinel://'
    throw wrongUsage(`the URL has ?${first}= and asks for no TLS`, `with TLS write ${secure}`)
  }
  if (parameters.has('cert') !== parameters.has('key')) {
    throw wrongUsage('the URL has one of ?cert= and ?key=; a certificate of the client needs both')
  }
  return Object.fromEntries(named.map((name) => [name, fileOf(name, parameters.get(name) ?? '')]))
}

function fileOf(name: string, path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (error) {
    throw wrongUsage(`the file of ?${name}= cannot be read: ${reasonOf(error)}`)
  }
}

/** What the driver of PostgreSQL makes of the parameters `sslmode`, `sslrootcert`, `sslcert` and `sslkey`. */
interface PostgresTls extends TlsFiles {
  readonly rejectUnauthorized?: boolean
  /** Another one than that of Node: no name is compared. */
  readonly checkServerIdentity?: unknown
}

/**
 * The same of PostgreSQL, as its driver reads the URL.
 *
 * @throws CommandEnd 64: a file cannot be read
 */
export async function postgresTlsOf({ text }: StoreUrl): Promise<PostgresTls | undefined> {
  const { default: pg } = await import('pg')
  try {
    const { ssl } = new pg.Client(text) as unknown as { readonly ssl: boolean | PostgresTls }
    return typeof ssl === 'object' ? ssl : ssl ? {} : undefined
  } catch (error) {
    const { syscall, path } = Object(error) as { syscall?: unknown; path?: unknown }
    if (syscall !== 'open') throw error
    throw wrongUsage(`a file that the URL names cannot be read: ${String(path)}: ${reasonOf(error)}`)
  }
}

/** The certificate that a server shows. */
export interface ServerCertificate {
  /** Such as TLSv1.3. */
  readonly protocol: string
  readonly issuer: string
  /** For which hosts it is, as Node writes them. */
  readonly names: string
  readonly validToMs: number
  /** Why the driver refuses it; undefined: it takes it. */
  readonly problem: Error | undefined
}

/**
 * Begins TLS with the server as a driver does, but also where the certificate is not to be trusted. undefined: the URL asks for no TLS.
 *
 * @throws what ends the connection: the server speaks no TLS, or a file cannot be read
 */
export async function lookAtCertificate(
  url: StoreUrl,
  { host, port }: HostPort,
  signal: AbortSignal,
): Promise<ServerCertificate | undefined> {
  const files: PostgresTls | undefined = url.kind === 'postgres' ? await postgresTlsOf(url) : tlsFilesOf(url)
  if (files === undefined) return undefined
  const { ca, cert, key } = files
  const plain = connectPlain({ host, port })
  const end = (): void => void plain.destroy(signal.reason as Error)
  signal.addEventListener('abort', end, { once: true })
  try {
    await firstOf(plain, 'connect')
    if (url.kind === 'postgres' && url.parameters.get('sslnegotiation') !== 'direct') await askForTls(plain)
    const socket = connect({
      socket: plain,
      ...(ca !== undefined && { ca }),
      ...(cert !== undefined && { cert, key }),
      rejectUnauthorized: false,
      ...(isIP(host) === 0 && { servername: host }),
      ...(url.kind === 'etcd' && { ALPNProtocols: ['h2'] }),
    })
    await firstOf(socket, 'secureConnect')
    const shown = socket.getPeerCertificate()
    const isChecked = files.rejectUnauthorized !== false
    const isNameChecked = isChecked && files.checkServerIdentity === undefined
    const distrust = (isChecked && socket.authorizationError) || undefined
    return {
      protocol: socket.getProtocol() ?? 'TLS',
      issuer: String(shown.issuer?.CN ?? shown.issuer?.O ?? 'an unnamed authority'),
      names: shown.subjectaltname ?? String(shown.subject?.CN),
      // eslint-disable-next-line no-restricted-globals -- it reads a text, and no clock
      validToMs: Date.parse(shown.valid_to),
      problem:
        distrust === undefined ? (isNameChecked ? checkServerIdentity(host, shown) : undefined) : asError(distrust),
    }
  } finally {
    signal.removeEventListener('abort', end)
    plain.destroy()
  }
}

/** Node types it as an Error, and gives a code. */
function asError(distrust: Error | string): Error {
  return distrust instanceof Error ? distrust : new Error(distrust)
}

/** PostgreSQL is asked in clear text first. @throws when it answers that it does not speak TLS */
async function askForTls(socket: Socket): Promise<void> {
  socket.write(Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]))
  const [answer] = (await firstOf(socket, 'data')) as [Buffer]
  if (answer.toString() !== 'S') throw new Error('The server does not support SSL connections')
}

/** The arguments of the next such event. @throws what ends the connection before */
async function firstOf(socket: Socket, event: string): Promise<unknown[]> {
  return await new Promise((resolve, reject) => {
    const gone = (): void => reject(new Error('the server ended the connection while TLS began'))
    socket.once(event, (...args: unknown[]) => {
      socket.off('error', reject).off('close', gone)
      resolve(args)
    })
    socket.once('error', reject).once('close', gone)
  })
}
