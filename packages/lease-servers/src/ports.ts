/**
 * Ports of 127.0.0.1 for servers and proxies, apart from those of clients: while a server restarts, the system could give its
 * port to any client that connects to somewhere, even to one that tries to reach that very server.
 *
 * A port is reserved by the UDP port of the same number, which no server here uses: it keeps other processes that ask here away
 * also while the server is down, and the kernel frees it however this process ends.
 */
import { createSocket, type Socket } from 'node:dgram'
import { randomInt } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'

/** Below are the usual ports of many programs. */
const FIRST = 10_000
const LAST = 65_535

const reserved = new Map<number, Socket>()

/**
 * Ports that are free now and that nobody else gets from here until they are released. A stranger may take one nevertheless, so
 * retry on a failed bind.
 */
export async function reservePorts(count: number): Promise<readonly number[]> {
  const ports: number[] = []
  try {
    while (ports.length < count) {
      const port = candidate(clientPorts())
      if (await reserve(port)) ports.push(port)
    }
    return ports
  } catch (error) {
    releasePorts(ports)
    throw error
  }
}

/** Lets others have these. Idempotent. */
export function releasePorts(ports: readonly number[]): void {
  for (const port of ports) {
    reserved.get(port)?.close()
    reserved.delete(port)
  }
}

/** First and last port that the system gives to clients. */
export function clientPorts(): readonly [first: number, last: number] {
  try {
    const [first, last] = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').trim().split(/\s+/).map(Number)
    if (first !== undefined && last !== undefined) return [first, last]
  } catch {
    // not Linux: what follows includes the usual ranges
  }
  return [32_768, LAST]
}

/** Any port outside the range of clients; any at all when that leaves none. */
function candidate([first, last]: readonly [number, number]): number {
  const below = Math.max(0, first - FIRST)
  const above = Math.max(0, LAST - Math.max(last, FIRST - 1))
  if (below + above === 0) return randomInt(FIRST, LAST + 1)
  const at = randomInt(below + above)
  return at < below ? FIRST + at : LAST - (at - below)
}

async function reserve(port: number): Promise<boolean> {
  if (reserved.has(port)) return false
  const socket = createSocket('udp4')
  socket.unref()
  reserved.set(port, socket)
  const isOurs = await opens((done) => {
    socket.once('error', done)
    socket.bind({ port, address: '127.0.0.1', exclusive: true }, done)
  })
  if (isOurs && (await isFree(port))) return true
  releasePorts([port])
  return false
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  const free = await opens((done) => {
    server.once('error', done)
    server.listen({ port, host: '127.0.0.1', exclusive: true }, done)
  })
  if (free) await new Promise((resolve) => server.close(resolve))
  return free
}

/** Whether that worked; false when somebody else has the port, or the system keeps it. @throws other errors */
async function opens(open: (done: (error?: NodeJS.ErrnoException) => void) => void): Promise<boolean> {
  const error = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => open(resolve))
  if (error === undefined || error.code === 'EADDRINUSE' || error.code === 'EACCES') return error === undefined
  throw error
}
