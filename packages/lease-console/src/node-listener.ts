/** From a `(Request) => Promise<Response>` to a listener of node:http, as node:http, Express, Fastify and Koa call it. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { warn } from 'lease-core'

/** What a server of node:http calls with each request. */
export type NodeListener = (message: IncomingMessage, response: ServerResponse) => void

/**
 * Makes a listener that answers each request by the handler, and passes streams on as they come. When the client leaves, the stream is
 * cancelled. Sends the whole path also where a framework has cut it off (`originalUrl`), and the body also if a parser has read it already.
 */
export function toNodeListener(handler: (request: Request) => Promise<Response>): NodeListener {
  return (message, response) => {
    answer(handler, message, response).catch((error: unknown) => {
      response.destroy()
      warn(error, 'LeaseConsoleWarning')
    })
  }
}

async function answer(
  handler: (request: Request) => Promise<Response>,
  message: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const request = requestOf(message)
  if (request === undefined) {
    response.writeHead(400).end()
    return
  }
  const { status, headers, body } = await handler(request)
  response.statusCode = status
  for (const [name, value] of headers) if (name !== 'set-cookie') response.setHeader(name, value)
  const cookies = headers.getSetCookie()
  if (cookies.length > 0) response.setHeader('set-cookie', cookies)
  if (body === null) {
    response.end()
    return
  }
  response.flushHeaders()
  // A client that leaves is not an error.
  await pipeline(Readable.fromWeb(body), response).catch((error: NodeJS.ErrnoException) => {
    if (!LEFT.has(error.code ?? '')) throw error
  })
}

const LEFT: ReadonlySet<string> = new Set(['ERR_STREAM_PREMATURE_CLOSE', 'ECONNRESET', 'EPIPE', 'ERR_STREAM_DESTROYED'])

/** What a framework may have added. */
interface Framed extends IncomingMessage {
  readonly originalUrl?: string
  readonly body?: unknown
}

/** undefined: not a request that can be read. */
function requestOf(message: Framed): Request | undefined {
  const { method = 'GET', headers: given } = message
  const headers = new Headers()
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || name.startsWith(':')) continue // of HTTP/2
    for (const one of Array.isArray(value) ? value : [value]) headers.append(name, one)
  }
  const host = given.host ?? given[':authority'] ?? 'localhost'
  const scheme = 'encrypted' in message.socket ? 'https' : 'http'
  const path = message.originalUrl ?? message.url ?? '/'
  const url = path.startsWith('/') ? `${scheme}://${String(host)}${path}` : path
  if (!URL.canParse(url)) return undefined
  const init: RequestInit & { duplex?: 'half' } = { method, headers }
  if (method !== 'GET' && method !== 'HEAD') {
    init.body = message.readableEnded ? asText(message.body) : (Readable.toWeb(message) as ReadableStream)
    init.duplex = 'half'
  }
  try {
    return new Request(url, init)
  } catch {
    return undefined // a method, such as CONNECT, or a URL with a password
  }
}

function asText(body: unknown): string {
  return typeof body === 'string' || Buffer.isBuffer(body) ? body.toString() : JSON.stringify(body ?? null)
}
