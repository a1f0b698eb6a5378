/** Proxies in a process of their own: a judge that is busy does not slow down the workers' bytes. */
import { type ChildProcess, spawn } from 'node:child_process'
import { type Impairment, programOf, type Proxy, type ProxyCounters } from 'lease-servers'

type Some = Parameters<Proxy['cut']>[0]

/** To the process. */
export type Order = { readonly id: number; readonly proxy: number } & (
  | { readonly call: 'open'; readonly url: string; readonly isOpaque: boolean }
  | { readonly call: 'impair'; readonly impairment: Impairment }
  | { readonly call: 'mend'; readonly impairment: number }
  | { readonly call: 'cut'; readonly some: Some }
  | { readonly call: 'counters' | 'refuse' | 'accept' | 'close' }
)

type Call = Order extends infer O ? (O extends Order ? Omit<O, 'id'> : never) : never

/** From the process. */
export interface Reply {
  readonly id: number
  readonly value?: number | ProxyCounters | void
  readonly error?: string
}

/** The process. It ends with this one. */
export class Proxies implements AsyncDisposable {
  readonly #process: ChildProcess
  readonly #waiting = new Map<number, { resolve(reply: Reply): void; reject(error: Error): void }>()
  readonly #gone: Promise<void>
  #orders = 0
  #proxies = 0

  constructor() {
    this.#process = spawn(process.execPath, [...programOf('./proxies.program.ts', import.meta.url)], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    this.#process.on('message', (message) => {
      const reply = message as Reply
      const call = this.#waiting.get(reply.id)
      this.#waiting.delete(reply.id)
      if (reply.error === undefined) call?.resolve(reply)
      else call?.reject(new Error(reply.error))
    })
    this.#gone = new Promise((resolve) => this.#process.once('exit', () => resolve()))
    void this.#gone.then(() => {
      for (const call of this.#waiting.values()) call.reject(new Error('the process of the proxies has ended'))
      this.#waiting.clear()
    })
  }

  /** Starts a proxy in front of the server at this URL. @param isOpaque it need not know the protocol */
  async open(url: string, isOpaque: boolean = false): Promise<RemoteProxy> {
    const proxy = ++this.#proxies
    const port = (await this.order({ proxy, call: 'open', url, isOpaque })) as number
    return new RemoteProxy(this, proxy, port)
  }

  async order(call: Call): Promise<Reply['value']> {
    const id = ++this.#orders
    const { value } = await new Promise<Reply>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject })
      this.#process.send({ id, ...call }, (error) => {
        if (error) reject(error)
      })
    })
    return value
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill('SIGKILL')
    await this.#gone
  }
}

/** A proxy in that process: as {@link Proxy}, but each call has happened when its promise resolves. */
export class RemoteProxy {
  readonly port: number
  readonly #proxies: Proxies
  readonly #id: number

  constructor(proxies: Proxies, id: number, port: number) {
    this.#proxies = proxies
    this.#id = id
    this.port = port
  }

  /** The same address with host and port replaced by the proxy's. */
  url(base: string): string {
    const url = new URL(base)
    url.hostname = '127.0.0.1'
    url.port = String(this.port)
    return url.href.replace(/\/$/, '')
  }

  async impair(impairment: Impairment): Promise<number> {
    return (await this.#proxies.order({ proxy: this.#id, call: 'impair', impairment })) as number
  }

  async mend(impairment: number): Promise<void> {
    await this.#proxies.order({ proxy: this.#id, call: 'mend', impairment })
  }

  async cut(some?: Some): Promise<void> {
    await this.#proxies.order({ proxy: this.#id, call: 'cut', some })
  }

  async counters(): Promise<ProxyCounters> {
    return (await this.#proxies.order({ proxy: this.#id, call: 'counters' })) as ProxyCounters
  }

  async refuse(): Promise<void> {
    await this.#proxies.order({ proxy: this.#id, call: 'refuse' })
  }

  async accept(): Promise<void> {
    await this.#proxies.order({ proxy: this.#id, call: 'accept' })
  }

  /** From now on faults leave it alone. */
  async close(): Promise<void> {
    await this.#proxies.order({ proxy: this.#id, call: 'close' })
  }
}
