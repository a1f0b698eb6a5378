/**
 * Moves the clocks of workers and servers, and slows their fsync, without root: a shared object that LD_PRELOAD puts before the C
 * library, compiled with the machine's C compiler when it is needed, and a file for each process that says what to do.
 */
import { execFile } from 'node:child_process'
import { chmodSync, closeSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { ServerHome } from 'lease-servers'
import { CLOCK_VARIABLE, driftAt, encodeControl, type ShimControl } from './machine-clock.ts'
import { nowMs } from './recorder.ts'

const SOURCE = fileURLToPath(new URL('../shims/faults.c', import.meta.url))

/** The compiled shim. */
export class Shim implements AsyncDisposable {
  readonly #home: ServerHome
  #clocks = 0

  private constructor(home: ServerHome) {
    this.#home = home
  }

  /**
   * Compiles it. The folder goes with this process.
   * @throws with one line when this machine has no C compiler, or no LD_PRELOAD
   */
  static async open(compiler: string = 'cc'): Promise<Shim> {
    if (process.platform !== 'linux') throw new Error('the shim for clocks and fsync needs Linux (LD_PRELOAD)')
    const home = new ServerHome('shim')
    try {
      const library = join(home.dir, 'faults.so')
      await promisify(execFile)(compiler, ['-shared', '-fPIC', '-O2', '-o', library, SOURCE, '-ldl'])
      chmodSync(library, 0o755)
      return new Shim(home)
    } catch (cause) {
      await home.close()
      const { code, stderr = '' } = cause as { readonly code?: unknown; readonly stderr?: string }
      const reason = code === 'ENOENT' ? `there is no ${compiler}` : (stderr.split('\n')[0] ?? String(cause))
      throw new Error(`the shim for clocks and fsync needs a C compiler: ${reason}`, { cause })
    }
  }

  /** For one process, and those that it forks. */
  control(): ProcessShim {
    const name = `clock-${++this.#clocks}`
    this.#home.write(name, '')
    return new ProcessShim(join(this.#home.dir, name), join(this.#home.dir, 'faults.so'))
  }

  async close(): Promise<void> {
    await this.#home.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** What the shim does in one process. At first nothing; each change is in force at once. */
export class ProcessShim {
  /** The process has to be started with these. */
  readonly env: Readonly<Record<string, string>>
  readonly #file: number
  #closed = false
  #control: ShimControl = { seq: 0n, wallNs: 0n, sinceNs: 0n, driftNs: 0n, rate: 0, fsyncNs: 0n }

  constructor(path: string, library: string) {
    this.env = { LD_PRELOAD: library, [CLOCK_VARIABLE]: path }
    this.#file = openSync(path, 'r+')
    this.#write({})
  }

  /** How far the wall clock is off. */
  get wallMs(): number {
    return Number(this.#control.wallNs / 1_000_000n)
  }

  set wallMs(ms: number) {
    this.#write({ wallNs: BigInt(Math.round(ms)) * 1_000_000n })
  }

  /**
   * By how much both clocks run fast (0.03: 3 %) or slow (negative). What they have gained or lost stays, so no clock is set back. Should
   * this process stand still in the middle of the change, they jump by their drift during that time.
   */
  set rate(rate: number) {
    const nowNs = BigInt(Math.round(nowMs() * 1e6))
    this.#write({ sinceNs: nowNs, driftNs: driftAt(this.#control, nowNs), rate })
  }

  /** How long each fsync takes longer. */
  set fsyncMs(ms: number) {
    this.#write({ fsyncNs: BigInt(Math.round(ms)) * 1_000_000n })
  }

  /** Changes do nothing from now on. Idempotent. */
  close(): void {
    if (!this.#closed) closeSync(this.#file)
    this.#closed = true
  }

  #write(change: Partial<ShimControl>): void {
    if (this.#closed) return
    const { seq } = this.#control
    this.#control = { ...this.#control, ...change, seq: seq + 2n }
    writeSync(this.#file, encodeControl({ ...this.#control, seq: seq + 1n }), 0, 8, 0)
    writeSync(this.#file, encodeControl(this.#control), 8, undefined, 8)
    writeSync(this.#file, encodeControl(this.#control), 0, 8, 0)
  }
}
