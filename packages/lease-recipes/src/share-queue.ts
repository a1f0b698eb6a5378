/** Holds shares of counted leases, for recipes that bound their calls themselves. */
import { shareName, Stopwatch, type Clock, type Hold, type HoldOptions, type Manager } from 'lease-core'
import { tryThenWait, waitThenTry } from './try-then-wait.ts'

export class ShareQueue {
  readonly #manager: Pick<Manager, 'hold' | 'find'>
  readonly #clock: Clock
  /** How many calls wait in this object, by counted lease. */
  readonly #waiting = new Map<string, number>()

  constructor(manager: Pick<Manager, 'hold' | 'find'>, clock: Clock) {
    this.#manager = manager
    this.#clock = clock
  }

  /**
   * Holds a share, in the order of the queue; at once if the holder has the share already, here or in another process.
   *
   * @throws as `manager.hold`
   */
  async hold(
    name: string,
    holder: string,
    { waitMs, ...options }: Omit<HoldOptions, 'wait'> & { readonly waitMs: number },
  ): Promise<Hold> {
    const claim = (wait: number | boolean): Promise<Hold> => {
      const hold = (): Promise<Hold> => this.#manager.hold(name, holder, { ...options, wait })
      return wait === false ? hold() : this.#queued(name, hold)
    }
    const since = new Stopwatch(this.#clock)
    if (waitMs > 0 && this.#waiting.has(name)) {
      // Behind other waiters of this process no claim is sent, so a share that the holder has would not be found; a try would pass them.
      const found = await this.#manager.find(shareName(name, holder), { signal: options.signal })
      if (found?.holder === holder) return claim(false)
      return waitThenTry(claim, waitMs - since.elapsedMs)
    }
    if (waitMs === Number.POSITIVE_INFINITY) return claim(true)
    let refused: Stopwatch | undefined
    /** The wait counts from the first refusal: before that the call did not wait for others. */
    const leftMs = (): number => waitMs - (refused ??= new Stopwatch(this.#clock)).elapsedMs
    return tryThenWait(claim, { waitMs, leftMs })
  }

  async #queued(name: string, work: () => Promise<Hold>): Promise<Hold> {
    this.#waiting.set(name, (this.#waiting.get(name) ?? 0) + 1)
    try {
      return await work()
    } finally {
      const left = (this.#waiting.get(name) ?? 1) - 1
      if (left > 0) this.#waiting.set(name, left)
      else this.#waiting.delete(name)
    }
  }
}
