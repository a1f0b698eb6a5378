/**
 * A TCP proxy that fails on command: the faults that a network has and a mock has not.
 */
import { connect, createServer, type Server, type Socket } from 'node:net'
import { until } from './awaited.ts'
import { etcdProtocol } from './etcd-protocol.ts'
import { releasePorts, reservePorts } from './ports.ts'
import { postgresProtocol } from './postgres-protocol.ts'
import type { Conversation, Protocol, Request } from './protocol.ts'
import { redisProtocol } from './redis-protocol.ts'

/** What has gone through a proxy since it was started. */
export interface ProxyCounters {
  readonly connections: number
  readonly requests: number
  readonly cuts: number
  readonly bytesToServer: number
  readonly bytesToClient: number
  /** Either way, while paused or silent. */
  readonly bytesSwallowed: number
}

/** A proxy on a port of 127.0.0.1. Every fault ends with its counterpart or by itself; several may be on at once. */
export interface Proxy extends AsyncDisposable {
  readonly port: number
  readonly counters: ProxyCounters
  /** The same address with host and port replaced by the proxy's. */
  url(base: string): string
  /**
   * The nth request from now on (of those that match) reaches the server and is carried out; its reply is swallowed and the
   * connection cut. Resolves when that has happened, or when the proxy is closed.
   */
  cutAfterRequest(nth?: number, matching?: RegExp): Promise<void>
  /** The same, but the request never reaches the server. */
  cutBeforeRequest(nth?: number, matching?: RegExp): Promise<void>
  /** Half-open: connections are accepted and stay, and bytes either way are swallowed. */
  pause(): void
  /** As `pause`, but the bytes are kept and delivered by `resume`, in order: a slow network. */
  hold(): void
  /** Ends `pause` and `hold`. A connection that lost bytes, or began while paused, is cut: nobody could make sense of it. */
  resume(): void
  /** From now on bytes either way are swallowed on the connections of now, which stay; new ones are sound. */
  silence(): void
  /** Cuts all connections; new ones are welcome. */
  cut(): void
  /** Cuts all connections and refuses new ones, as a server that is down. */
  refuse(): Promise<void>
  /** Ends `refuse`, on the same port; waits for as long as another process has it. */
  accept(): Promise<void>
  /** Resolves once no connection is left. Idempotent. */
  close(): Promise<void>
}

const schemes: Readonly<Record<string, { readonly protocol: Protocol; readonly port: number }>> = {
  'postgres:': { protocol: postgresProtocol, port: 5432 },
  'postgresql:': { protocol: postgresProtocol, port: 5432 },
  'redis:': { protocol: redisProtocol, port: 6379 },
  'http:': { protocol: etcdProtocol, port: 2379 },
}

/**
 * Starts a proxy in front of the server that a URL names (`postgres:`, `redis:` or, for etcd, `http:`), or of a port of 127.0.0.1,
 * whose protocol has to be given.
 */
export async function startProxy(target: string): Promise<Proxy>
export async function startProxy(target: number | string, protocol: Protocol): Promise<Proxy>
export async function startProxy(target: number | string, given?: Protocol): Promise<Proxy> {
  const url = typeof target === 'string' ? new URL(target) : undefined
  const scheme = schemes[url?.protocol ?? '']
  const protocol = given ?? scheme?.protocol
  const port = Number(url ? url.port || scheme?.port : target)
  if (!protocol || !port) throw new Error(`no protocol or port known for ${target}`)
  const proxy = new FaultyProxy(url?.hostname ?? '127.0.0.1', port, protocol)
  await proxy.accept()
  return proxy
}

interface Trap {
  readonly when: 'before' | 'after'
  readonly matching: RegExp | undefined
  readonly sprung: () => void
  left: number
}

interface Link {
  readonly client: Socket
  readonly server: Socket
  readonly conversation: Conversation
  /** Requests whose reply leads to a cut. */
  readonly doomed: Map<Request, Trap>
  lost: boolean
  silent: boolean
}

class FaultyProxy implements Proxy {
  port = 0
  readonly counters = { connections: 0, requests: 0, cuts: 0, bytesToServer: 0, bytesToClient: 0, bytesSwallowed: 0 }
  readonly #host: string
  readonly #targetPort: number
  readonly #protocol: Protocol
  readonly #links = new Set<Link>()
  readonly #traps = new Set<Trap>()
  #listener: Server | undefined
  #accepting: Promise<void> = Promise.resolve()
  #mode: 'open' | 'paused' | 'held' = 'open'

  constructor(host: string, targetPort: number, protocol: Protocol) {
    this.#host = host
    this.#targetPort = targetPort
    this.#protocol = protocol
  }

  url(base: string): string {
    const url = new URL(base)
    url.hostname = '127.0.0.1'
    url.port = String(this.port)
    return base.endsWith('/') ? url.href : url.href.replace(/\/$/, '')
  }

  async cutAfterRequest(nth = 1, matching?: RegExp): Promise<void> {
    await this.#setTrap('after', nth, matching)
  }

  async cutBeforeRequest(nth = 1, matching?: RegExp): Promise<void> {
    await this.#setTrap('before', nth, matching)
  }

  pause(): void {
    this.#mode = 'paused'
  }

  hold(): void {
    this.#mode = 'held'
    for (const link of this.#links) this.#freeze(link)
  }

  resume(): void {
    this.#mode = 'open'
    for (const link of this.#links) {
      if (link.lost) this.#cutLink(link)
      link.client.resume()
      link.server.resume()
    }
  }

  silence(): void {
    this.#mode = 'open'
    for (const link of this.#links) {
      link.silent = true
      link.client.resume()
      link.server.resume()
    }
  }

  cut(): void {
    for (const link of this.#links) this.#cutLink(link)
  }

  async refuse(): Promise<void> {
    const listener = this.#listener
    this.#listener = undefined
    this.cut()
    await this.#accepting.catch(() => undefined) // told to who called accept
    if (listener?.listening) await new Promise<void>((resolve) => listener.close(() => resolve()))
  }

  async accept(): Promise<void> {
    if (this.#listener) return
    const listener = createServer((client) => this.#open(client))
    this.#listener = listener
    this.#accepting = this.#listen(listener)
    await this.#accepting
  }

  /** Resolves once it listens, or the proxy refuses again. */
  async #listen(listener: Server): Promise<void> {
    const isOver = (): boolean => this.#listener !== listener // refused again meanwhile
    if (this.port !== 0) {
      const { port } = this
      await until(`port ${port} is free for a proxy`, async () => isOver() || (await listens(listener, port)), 20)
    } else {
      while (!isOver()) {
        const [port = 0] = await reservePorts(1)
        this.port = port
        if (await listens(listener, port)) break
        releasePorts([port])
      }
    }
  }

  async close(): Promise<void> {
    await this.refuse()
    releasePorts([this.port])
    for (const trap of this.#traps) trap.sprung()
    this.#traps.clear()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #setTrap(when: Trap['when'], nth: number, matching: RegExp | undefined): Promise<void> {
    await new Promise<void>((sprung) => this.#traps.add({ when, matching, sprung, left: nth }))
  }

  #open(client: Socket): void {
    this.counters.connections++
    const server = connect({ host: this.#host, port: this.#targetPort, noDelay: true })
    client.setNoDelay(true)
    const link: Link = { client, server, conversation: this.#protocol(), doomed: new Map(), lost: false, silent: false }
    this.#links.add(link)
    client.on('data', (bytes: Buffer) => this.#toServer(link, bytes))
    server.on('data', (bytes: Buffer) => this.#toClient(link, bytes))
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      from.on('error', () => this.#cutLink(link))
      // While paused, even the news that a side has hung up is lost.
      from.on('end', () => (this.#mode === 'paused' ? (link.lost = true) : to.end()))
      from.on('close', () => {
        if (this.#mode === 'open') this.#drop(link)
        else link.lost = true
      })
    }
    if (this.#mode === 'held') this.#freeze(link)
  }

  #toServer(link: Link, bytes: Buffer): void {
    if (this.#mode === 'paused' || link.silent) {
      link.lost = true
      this.counters.bytesSwallowed += bytes.length
      return
    }
    const passed: Buffer[] = []
    for (const { bytes: unit, request } of link.conversation.fromClient(bytes)) {
      const trap = request && this.#spring(request)
      if (trap?.when === 'before') {
        this.#send(link.server, passed, 'bytesToServer')
        this.#cutLink(link)
        trap.sprung()
        return
      }
      if (trap) link.doomed.set(request, trap)
      passed.push(unit)
    }
    this.#send(link.server, passed, 'bytesToServer')
  }

  #toClient(link: Link, bytes: Buffer): void {
    if (this.#mode === 'paused' || link.silent) {
      link.lost = true
      this.counters.bytesSwallowed += bytes.length
      return
    }
    const passed: Buffer[] = []
    for (const { bytes: unit, answers, ends } of link.conversation.fromServer(bytes)) {
      const trap = answers && link.doomed.get(answers)
      if (!trap) passed.push(unit)
      else if (ends) {
        link.doomed.delete(answers)
        this.#send(link.client, passed, 'bytesToClient')
        this.#cutLink(link)
        trap.sprung()
        return
      }
    }
    this.#send(link.client, passed, 'bytesToClient')
  }

  #send(to: Socket, units: readonly Buffer[], counter: 'bytesToServer' | 'bytesToClient'): void {
    if (units.length === 0) return
    const bytes = Buffer.concat(units)
    this.counters[counter] += bytes.length
    to.write(bytes)
  }

  /** Counts this request against each trap; the first that is due springs. */
  #spring({ payload }: Request): Trap | undefined {
    this.counters.requests++
    for (const trap of this.#traps) {
      if (trap.matching && !trap.matching.test(payload.toString('latin1'))) continue
      if (--trap.left > 0) continue
      this.#traps.delete(trap)
      return trap
    }
    return undefined
  }

  #freeze(link: Link): void {
    link.client.pause()
    link.server.pause()
  }

  #cutLink(link: Link): void {
    if (!this.#links.has(link)) return
    this.counters.cuts++
    this.#drop(link)
  }

  #drop(link: Link): void {
    this.#links.delete(link)
    // Those that were not answered in time have not happened: they wait for the next request.
    for (const trap of link.doomed.values()) this.#traps.add({ ...trap, left: 1 })
    link.client.destroy()
    link.server.destroy()
  }
}

/** False when another process has the port. */
async function listens(listener: Server, port: number): Promise<boolean> {
  return await new Promise((resolve, reject) => {
    const fail = (error: NodeJS.ErrnoException): void => {
      if (error.code === 'EADDRINUSE') resolve(false)
      else reject(error)
    }
    listener.once('error', fail)
    listener.listen({ port, host: '127.0.0.1', exclusive: true }, () => {
      listener.off('error', fail)
      resolve(true)
    })
  })
}
