/** A server of its own for a console, for one operator on one machine. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { OptionReader } from 'lease-core/adapter'
import type { LeaseConsole } from './console.ts'
import { toNodeListener } from './node-listener.ts'
import { problem } from './safety.ts'

/** Options of `serveConsole`. */
export interface ServeConsoleOptions {
  /** 0: any free port. @default 0 */
  readonly port?: number | undefined
  /**
   * Where to listen. On an address of this machine alone, only requests for `localhost` or that address are answered, so that no other site
   * can reach the console under its own name.
   *
   * @default '127.0.0.1'
   */
  readonly host?: string | undefined
}

/** A running server. */
export interface ServedConsole extends AsyncDisposable {
  /** Where it listens: `http://127.0.0.1:port`. The page is at this address followed by the `basePath` of the console. */
  readonly url: string
  readonly port: number
  /** Closes the console, then the server. Idempotent. */
  close(): Promise<void>
}

const LOOPBACK = /^(127\.\d+\.\d+\.\d+|::1|localhost)$/

/**
 * Serves a console by node:http.
 *
 * @throws ErrNotValid port or host break a rule
 * @throws Error the port is taken, or the address is not of this machine: the code of node:net is kept
 */
export async function serveConsole(console: LeaseConsole, options: ServeConsoleOptions = {}): Promise<ServedConsole> {
  const reader = new OptionReader(options, ['port', 'host'])
  const { port = 0, host = '127.0.0.1' } = reader.read
  const isPort = Number.isInteger(port) && port >= 0 && port <= 65_535
  reader.must('port', isPort, 'must be a whole number from 0 to 65535')
  reader.must('host', typeof host === 'string' && host !== '', "must be an address such as '127.0.0.1'")
  reader.finish()

  const isLocal = LOOPBACK.test(host)
  const server = createServer(
    toNodeListener(async (request) => {
      const { hostname } = new URL(request.url)
      if (!isLocal || LOOPBACK.test(hostname.replace(/^\[(.*)\]$/, '$1'))) return console(request)
      return problem(421, 'this console answers to localhost only')
    }),
  )
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  }).catch((error: NodeJS.ErrnoException) => {
    const why = error.code === 'EADDRINUSE' ? 'another program listens there: choose another port' : error.message
    throw Object.assign(new Error(`cannot listen on ${host}:${port}: ${why}`, { cause: error }), { code: error.code })
  })
  const { port: chosen } = server.address() as AddressInfo
  let closed: Promise<void> | undefined
  const close = (): Promise<void> => {
    closed ??= (async () => {
      await console.close()
      const ended = new Promise<void>((resolve) => server.close(() => resolve()))
      server.closeAllConnections()
      await ended
    })()
    return closed
  }
  const url = `http://${host.includes(':') ? `[${host}]` : host}:${chosen}`
  return { url, port: chosen, close, [Symbol.asyncDispose]: close }
}
