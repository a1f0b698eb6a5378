/**
 * When the clauses of one suite run. On a test clock one after the other, as they share its time. On a real clock most of a
 * clause is waiting, so several run at once:
 *
 *     it 1 ─▶ starts all lanes ─▶ awaits clause 1      lane 1: clause 1, clause 4, …      (two clients for each lane)
 *     it 2 ─▶ awaits clause 2                          lane 2: clause 2, clause 5, …
 *     it 3 ─▶ waits for all lanes, runs clause 3 alone lane 3: clause 6, …
 *
 * This needs nothing of the runner: each test awaits the outcome of its own clause.
 */
import type { Client } from '../client.ts'

export type Pair = readonly [Client, Client]
type Run = (pair: Pair) => Promise<void>

/** How many clauses run at once on a real clock: each has two clients, and some open two or three more. */
const LANES = 8

export class ClauseQueue {
  readonly #openClient: () => Promise<Client>
  readonly #lanes: number
  /** The two clients of each lane. */
  readonly #pairs: Promise<Pair>[] = []
  /** What no lane has begun yet. */
  readonly #waiting: ((pair: Promise<Pair>) => Promise<void>)[] = []
  #working: Promise<unknown> | undefined
  #alone: Promise<unknown> = Promise.resolve()

  constructor(openClient: () => Promise<Client>, { together }: { readonly together: boolean }) {
    this.#openClient = openClient
    this.#lanes = together ? LANES : 0
  }

  /** The body of a test that runs this clause. */
  add(run: Run, { alone }: { readonly alone: boolean }): () => Promise<void> {
    return alone || this.#lanes === 0 ? () => this.#runAlone(run) : this.#runTogether(run)
  }

  /** Opens the first two clients. */
  async open(): Promise<void> {
    await this.#pair(0)
  }

  /** Closes all clients, once no clause runs. */
  async close(): Promise<void> {
    await this.#working
    const pairs = await Promise.allSettled(this.#pairs)
    const clients = pairs.flatMap((pair) => (pair.status === 'fulfilled' ? pair.value : []))
    await Promise.all(clients.map((client) => client.close()))
  }

  #runTogether(run: Run): () => Promise<void> {
    let settle: (running: Promise<void>) => void = () => {}
    const outcome = new Promise<void>((resolve) => (settle = resolve))
    outcome.catch(() => {}) // the runner may leave the test out, and then nobody awaits the outcome
    this.#waiting.push(async (pair) => {
      const running = pair.then(run)
      settle(running)
      await Promise.allSettled([running])
    })
    return () => {
      this.#working ??= this.#alone.then(() =>
        Promise.all(Array.from({ length: this.#lanes }, (_, lane) => this.#work(lane))),
      )
      return outcome
    }
  }

  async #work(lane: number): Promise<void> {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      await next(this.#pair(lane))
    }
  }

  async #runAlone(run: Run): Promise<void> {
    const before = Promise.allSettled([this.#alone, this.#working])
    const outcome = before.then(() => this.#pair(0)).then(run)
    this.#alone = outcome.catch(() => {})
    return outcome
  }

  #pair(lane: number): Promise<Pair> {
    return (this.#pairs[lane] ??= this.#openPair())
  }

  async #openPair(): Promise<Pair> {
    return [await this.#openClient(), await this.#openClient()]
  }
}
