/** The ways in of the workers to a store: for each worker proxies of its own, and clocks that can be moved. */
import { type ProcessShim, Shim } from '../shim.ts'
import { Proxies, type RemoteProxy } from './proxies.ts'

/** How one worker comes in. */
export interface WayIn {
  readonly worker: string
  readonly proxies: readonly RemoteProxy[]
  /** Undefined without a compiler. */
  readonly shim: ProcessShim | undefined
}

/** All of them. */
export class Ways implements AsyncDisposable {
  readonly all: WayIn[] = []
  /** Undefined when this machine cannot have it; `whyNoShim` says why. */
  readonly shim: Shim | undefined
  readonly whyNoShim: string
  readonly processes: Proxies = new Proxies()

  private constructor(shim: Shim | undefined, whyNoShim: string) {
    this.shim = shim
    this.whyNoShim = whyNoShim
  }

  /** @param compiler of the shim for clocks. @default cc */
  static async open(compiler?: string): Promise<Ways> {
    try {
      return new Ways(await Shim.open(compiler), '')
    } catch (error) {
      return new Ways(undefined, error instanceof Error ? error.message : String(error))
    }
  }

  /** The proxies of all workers. */
  get proxies(): readonly RemoteProxy[] {
    return this.all.flatMap(({ proxies }) => proxies)
  }

  /** One more: each of these URLs by way of a proxy, and what the environment of the worker needs. */
  async add(
    worker: string,
    urls: readonly string[],
  ): Promise<{ readonly urls: readonly string[]; readonly env: Readonly<Record<string, string>> }> {
    const shim = this.shim?.control()
    const proxies = await Promise.all(urls.map(async (url) => this.processes.open(url)))
    this.all.push({ worker, proxies, shim })
    return { urls: urls.map((url, index) => proxies[index]?.url(url) ?? url), env: shim?.env ?? {} }
  }

  /** The worker is dead: faults hit those that live. */
  async remove(worker: string): Promise<void> {
    const index = this.all.findIndex((way) => way.worker === worker)
    const [way] = index < 0 ? [] : this.all.splice(index, 1)
    way?.shim?.close()
    await Promise.all((way?.proxies ?? []).map(async (proxy) => proxy.close()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { shim } of this.all) shim?.close()
    await this.processes[Symbol.asyncDispose]()
    await this.shim?.close()
  }
}
