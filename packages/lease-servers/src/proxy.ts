/**
 * A TCP proxy that fails on command: the faults that a network has and a mock has not.
 */
import { connect, createServer, type Server, type Socket } from 'node:net'
import { until } from './awaited.ts'
import { type AnswerFault, Answers, isOfAnswers } from './answers.ts'
import { dynamodbProtocol } from './dynamodb-protocol.ts'
import { etcdProtocol } from './etcd-protocol.ts'
import { Lane, type Treatment } from './lane.ts'
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
  /** Either way, while paused or silent, or dropped by an impairment. */
  readonly bytesSwallowed: number
  /** Either way, that an impairment made wait. */
  readonly bytesDelayed: number
}

/** Towards the server, or towards the client. */
export type Way = 'up' | 'down'

/** Which connections: every one; those of now, so that later ones are sound; those that listen to notifications; those whose client said this first. */
export type Which = 'all' | 'present' | 'listening' | { readonly first: string }

/**
 * A fault that lasts until it is mended. Bytes that are dropped are lost with the news of a hang-up, and their connection is cut in the
 * end. Bytes that are held, late or slow arrive in order, also after the side that sent them has hung up.
 */
export type Impairment =
  | { readonly kind: 'drop' | 'hold'; readonly on?: Which; readonly way?: Way }
  /** Each chunk of bytes is late by 0 to `maxMs`, each way. */
  | { readonly kind: 'delay'; readonly on?: Which; readonly way?: Way; readonly maxMs: number }
  /** 1 to `maxBytes` at a time, 0 to `maxMs` apart. */
  | {
      readonly kind: 'trickle'
      readonly on?: Which
      readonly way?: Way
      readonly maxBytes: number
      readonly maxMs: number
    }
  /** A share (0 to 1) of the requests, by chance, leads to a cut before the server has it, or after it was carried out. */
  | { readonly kind: 'cut-requests'; readonly when: 'before' | 'after'; readonly share: number }
  /** Connections are cut when they have lived from now on for `minMs` to `maxMs`. */
  | { readonly kind: 'short-lived'; readonly minMs: number; readonly maxMs: number }
  /** A connection that begins to listen is cut before the server knows. */
  | { readonly kind: 'refuse-listeners' }
  | AnswerFault

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
  /** Cuts a share (0 to 1) of the connections, by chance, or of those that listen; new ones are welcome. @default all */
  cut(some?: { readonly share?: number; readonly on?: 'all' | 'listening' }): void
  /** Begins a fault and returns its number, for {@link mend}. Several may be on: bytes that one drops or holds, no other lets pass. */
  impair(impairment: Impairment): number
  /** Ends this fault. Harmless when it has ended. */
  mend(impairment: number): void
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
  'dynamodb:': { protocol: dynamodbProtocol, port: 8000 },
}

/**
 * Starts a proxy in front of the server that a URL names (`postgres:`, `redis:`, `dynamodb:` or, for etcd, `http:`), or of a port of
 * 127.0.0.1, whose protocol has to be given.
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
  /** Sprung by chance: nobody waits for it. */
  readonly byChance?: boolean
}

interface Fault {
  readonly impairment: Impairment
  /** The connections of then, where later ones are sound. */
  readonly links: ReadonlySet<Link> | undefined
}

interface Link {
  readonly client: Socket
  readonly server: Socket
  readonly conversation: Conversation
  /** Requests whose reply leads to a cut. */
  readonly doomed: Map<Request, Trap>
  /** What the client gets instead of the replies to these. */
  readonly replaced: Map<Request, Buffer>
  readonly up: Lane
  readonly down: Lane
  /** What the client said first, as far as anybody asks for it. */
  first: string
  lost: boolean
  silent: boolean
  timer: NodeJS.Timeout | undefined
}

const FIRST_BYTES = 2048

class FaultyProxy implements Proxy {
  port = 0
  readonly counters = {
    connections: 0,
    requests: 0,
    cuts: 0,
    bytesToServer: 0,
    bytesToClient: 0,
    bytesSwallowed: 0,
    bytesDelayed: 0,
  }
  readonly #host: string
  readonly #targetPort: number
  readonly #protocol: Protocol
  readonly #links = new Set<Link>()
  readonly #traps = new Set<Trap>()
  readonly #faults = new Map<number, Fault>()
  readonly #answers: Answers
  #numbers = 0
  #listener: Server | undefined
  #accepting: Promise<void> = Promise.resolve()
  #mode: 'open' | 'paused' | 'held' = 'open'

  constructor(host: string, targetPort: number, protocol: Protocol) {
    this.#host = host
    this.#targetPort = targetPort
    this.#protocol = protocol
    this.#answers = new Answers(() => connect({ host, port: targetPort, noDelay: true }))
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

  cut({ share = 1, on = 'all' }: { readonly share?: number; readonly on?: 'all' | 'listening' } = {}): void {
    for (const link of this.#links) {
      if ((on === 'all' || link.conversation.listens) && Math.random() < share) this.#cutLink(link)
    }
  }

  impair(impairment: Impairment): number {
    const isOfNow = 'on' in impairment && impairment.on === 'present'
    const id = ++this.#numbers
    this.#faults.set(id, { impairment, links: isOfNow ? new Set(this.#links) : undefined })
    if (impairment.kind === 'short-lived') for (const link of this.#links) this.#limitLife(link)
    return id
  }

  mend(impairment: number): void {
    const fault = this.#faults.get(impairment)
    if (fault === undefined) return
    this.#faults.delete(impairment)
    this.#answers.forget(fault.impairment)
    for (const link of this.#links) {
      if (link.lost && this.#mode === 'open' && !link.silent && !this.#drops(link)) this.#cutLink(link)
      link.up.flush()
      link.down.flush()
    }
  }

  async refuse(): Promise<void> {
    const listener = this.#listener
    this.#listener = undefined
    this.cut()
    await this.#accepting.catch(() => undefined) // reported to the caller of accept
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
    this.#answers.close()
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
    const link: Link = {
      client,
      server,
      conversation: this.#protocol(),
      doomed: new Map(),
      replaced: new Map(),
      up: new Lane(
        () => this.#treatment(link, 'up'),
        (bytes) => server.write(bytes),
        () => server.end(),
      ),
      down: new Lane(
        () => this.#treatment(link, 'down'),
        (bytes) => client.write(bytes),
        () => client.end(),
      ),
      first: '',
      lost: false,
      silent: false,
      timer: undefined,
    }
    this.#links.add(link)
    client.on('data', (bytes: Buffer) => this.#toServer(link, bytes))
    server.on('data', (bytes: Buffer) => this.#toClient(link, bytes))
    for (const [from, to, way] of [
      [client, server, 'up'],
      [server, client, 'down'],
    ] as const) {
      // What was written before a hang-up still arrives, as long as there is somebody to read it.
      const isUnderWay = (): boolean => this.#drops(link, way) || (link[way].isWaiting && !to.destroyed)
      from.on('error', () => {
        if (!isUnderWay()) this.#cutLink(link)
      })
      // While paused, even the news that a side has hung up is lost.
      from.on('end', () => {
        if (this.#mode === 'paused' || this.#drops(link, way)) link.lost = true
        else link[way].end()
      })
      from.on('close', () => {
        if (this.#mode !== 'open' || this.#drops(link, way)) link.lost = true
        else if (isUnderWay()) link[way].end()
        else this.#drop(link)
      })
    }
    if (this.#mode === 'held') this.#freeze(link)
    this.#limitLife(link)
  }

  #toServer(link: Link, bytes: Buffer): void {
    if (link.first.length < FIRST_BYTES) link.first += bytes.toString('latin1').slice(0, FIRST_BYTES)
    if (this.#mode === 'paused' || link.silent || this.#drops(link, 'up')) {
      link.lost = true
      this.counters.bytesSwallowed += bytes.length
      return
    }
    const passed: Buffer[] = []
    for (const { bytes: unit, request } of link.conversation.fromClient(bytes)) {
      const trap = request && this.#spring(request)
      if (trap?.when === 'before') {
        this.#send(link, 'up', passed)
        this.#cutLink(link)
        trap.sprung()
        return
      }
      if (trap) link.doomed.set(request, trap)
      const answer = request && this.#answers.instead(request, this.#impairments())
      if (request && answer?.when === 'after') link.replaced.set(request, answer.reply)
      if (answer?.when === 'before') this.#send(link, 'down', [answer.reply])
      else passed.push(unit)
    }
    if (link.conversation.listens && this.#has('refuse-listeners')) this.#cutLink(link)
    else this.#send(link, 'up', passed)
  }

  #toClient(link: Link, bytes: Buffer): void {
    if (this.#mode === 'paused' || link.silent || this.#drops(link, 'down')) {
      link.lost = true
      this.counters.bytesSwallowed += bytes.length
      return
    }
    const passed: Buffer[] = []
    for (const { bytes: unit, answers, ends } of link.conversation.fromServer(bytes)) {
      const trap = answers && link.doomed.get(answers)
      const replacement = answers && link.replaced.get(answers)
      if (answers && ends) {
        link.replaced.delete(answers)
        this.#answers.note(answers, unit, this.#impairments())
      }
      if (!trap) passed.push(replacement ?? unit)
      else if (ends) {
        link.doomed.delete(answers)
        this.#send(link, 'down', passed)
        this.#cutLink(link)
        trap.sprung()
        return
      }
    }
    this.#send(link, 'down', passed)
  }

  #send(link: Link, way: Way, units: readonly Buffer[]): void {
    if (units.length === 0) return
    const bytes = Buffer.concat(units)
    this.counters[way === 'up' ? 'bytesToServer' : 'bytesToClient'] += bytes.length
    if (this.#treatment(link, way).kind !== 'pass') this.counters.bytesDelayed += bytes.length
    link[way].push(bytes)
  }

  #impairments(): readonly Impairment[] {
    return Array.from(this.#faults.values(), ({ impairment }) => impairment)
  }

  #has(kind: Impairment['kind']): boolean {
    return this.#impairments().some((impairment) => impairment.kind === kind)
  }

  /** The faults that concern these bytes, of those that last. */
  *#on(link: Link, way: Way): Generator<Impairment> {
    for (const { impairment, links } of this.#faults.values()) {
      if (impairment.kind === 'cut-requests' || impairment.kind === 'short-lived') continue
      if (impairment.kind === 'refuse-listeners' || isOfAnswers(impairment)) continue
      const { on = 'all' } = impairment
      const isMeant =
        on === 'all' ||
        (on === 'listening' && link.conversation.listens === true) ||
        (typeof on === 'object' && link.first.includes(on.first)) ||
        links?.has(link) === true
      if (isMeant && (impairment.way ?? way) === way) yield impairment
    }
  }

  #drops(link: Link, way?: Way): boolean {
    if (way === undefined) return this.#drops(link, 'up') || this.#drops(link, 'down')
    return [...this.#on(link, way)].some(({ kind }) => kind === 'drop')
  }

  #treatment(link: Link, way: Way): Treatment {
    const all = [...this.#on(link, way)]
    for (const kind of ['hold', 'trickle', 'delay'] as const) {
      const found = all.find((impairment) => impairment.kind === kind)
      if (found !== undefined) return found as Treatment
    }
    return { kind: 'pass' }
  }

  #limitLife(link: Link): void {
    for (const { impairment } of this.#faults.values()) {
      if (impairment.kind !== 'short-lived') continue
      const lifeMs = impairment.minMs + Math.random() * (impairment.maxMs - impairment.minMs)
      link.timer ??= setTimeout(() => this.#cutLink(link), lifeMs)
    }
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
    for (const { impairment } of this.#faults.values()) {
      if (impairment.kind !== 'cut-requests' || Math.random() >= impairment.share) continue
      return { when: impairment.when, matching: undefined, sprung: () => undefined, left: 0, byChance: true }
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
    for (const trap of link.doomed.values()) if (!trap.byChance) this.#traps.add({ ...trap, left: 1 })
    clearTimeout(link.timer)
    link.up.stop()
    link.down.stop()
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
