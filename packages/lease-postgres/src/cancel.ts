/** CancelRequest: tells the server to stop at a statement whose connection is being closed. */
import { connect as connectSocket, isIP, type Socket } from 'node:net'
import { connect as connectTls, type ConnectionOptions } from 'node:tls'
import { systemClock } from 'lease-core'

/** What the client of `pg` knows of its backend. Not part of what `pg` promises: where something is missing, nothing is sent. */
interface Backend {
  readonly host?: unknown
  readonly port?: unknown
  readonly ssl?: unknown
  readonly processID?: unknown
  readonly secretKey?: unknown
}

/** For how long it is tried. */
const PATIENCE_MS = 5_000

const CANCEL_REQUEST = 80_877_102
const SSL_REQUEST = 80_877_103

/**
 * A backend that waits, for a lock or for a synchronous standby, does not notice that its client has gone: without this it would
 * wait on, and each further attempt would add one. Best effort: it never throws, and nobody waits for it. Over TLS where the
 * connection was. The server does nothing where the statement is over, for the key is of this very backend.
 */
export function cancel(client: object): void {
  const { host, port, ssl, processID, secretKey } = client as Backend
  if (typeof host !== 'string' || typeof port !== 'number') return
  if (typeof processID !== 'number' || typeof secretKey !== 'number') return
  const request = message(CANCEL_REQUEST, processID, secretKey)
  const socket = host.startsWith('/') ? connectSocket(`${host}/.s.PGSQL.${port}`) : connectSocket(port, host)
  const patience = systemClock.setTimer(PATIENCE_MS, () => socket.destroy())
  socket.unref()
  socket.on('error', () => {})
  socket.on('close', () => patience.cancel())
  if (ssl === undefined || ssl === false) return void socket.end(request)
  socket.write(message(SSL_REQUEST))
  socket.once('data', (answer) => {
    if (answer.toString('latin1', 0, 1) === 'S') endOverTls(socket, { host, ssl }, request)
    else socket.destroy()
  })
}

function endOverTls(
  socket: Socket,
  { host, ssl }: { readonly host: string; readonly ssl: unknown },
  request: Buffer,
): void {
  const own: ConnectionOptions = typeof ssl === 'object' ? (ssl as ConnectionOptions) : {}
  const secure = connectTls({ ...own, socket, ...(isIP(host) === 0 ? { servername: host } : {}) })
  secure.on('error', () => socket.destroy())
  secure.once('secureConnect', () => void secure.end(request))
}

/** Its length, and these numbers of 32 bits, with a sign (as `pg` reads a key) or without (as postgres.js does). */
function message(...numbers: readonly number[]): Buffer {
  const buffer = Buffer.alloc(4 + 4 * numbers.length)
  buffer.writeInt32BE(buffer.length)
  numbers.forEach((number, index) => buffer.writeUInt32BE(number >>> 0, 4 + 4 * index))
  return buffer
}
