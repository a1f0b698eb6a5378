/** Reads and writes items, and keeps in mind what this process knows of them (`known-items.ts`). */
import { randomUUID } from 'node:crypto'
import type { Clock } from 'lease-core'
import { StoreFailure, type Call } from 'lease-core/adapter'
import { isOver, type DecisionContext } from './decide.ts'
import { KnownItems } from './known-items.ts'
import { ABSENT, stateIn, type State } from './layout.ts'
import type { Requests, Write, Written } from './requests.ts'

/** What became of a write: the state that it left, or the one that it met; undefined: not known, so read it. */
export interface Outcome {
  readonly isDone: boolean
  readonly state: State | undefined
}

export class Items {
  readonly known: KnownItems = new KnownItems()
  readonly #requests: Requests
  readonly #clock: Clock
  readonly #maxSkewMs: number | undefined
  readonly #prefix = randomUUID().replaceAll('-', '').slice(0, 20)
  #versions = 0

  /** @param maxSkewMs see `DynamodbSubstrateOptions` */
  constructor(requests: Requests, clock: Clock, maxSkewMs?: number) {
    this.#requests = requests
    this.#clock = clock
    this.#maxSkewMs = maxSkewMs
  }

  /** For one decision: its version is new. */
  context({ client, epoch }: Call): DecisionContext {
    return {
      version: `${this.#prefix}${(this.#versions++).toString(36)}`,
      client,
      isStale: this.known.isStale(client, epoch),
      nowMs: this.#clock.now(),
      maxSkewMs: this.#maxSkewMs,
    }
  }

  /** Whether the term is over as far as clocks can tell, where they are asked. */
  isOver(state: State): boolean {
    return isOver(state, { nowMs: this.#clock.now(), maxSkewMs: this.#maxSkewMs })
  }

  /** The state now. @throws StoreFailure also for an item that somebody else wrote */
  async fetch(lease: string, call: Call): Promise<State> {
    const before = this.known.doubts(lease)
    const state = stateIn(await this.#requests.get(lease, call))
    // What was under way before that read, and demands another version, has failed by now.
    this.known.end(lease, ...before.filter(({ was }) => was !== state.version))
    this.known.learn(lease, state)
    return state
  }

  async write(write: Write, call: Call): Promise<Outcome> {
    const [outcome] = await this.#sent([write], async () => [await this.#requests.write(write, call)])
    return outcome as Outcome
  }

  /** All of them, or none. */
  async transact(writes: readonly (Write & { readonly after: State })[], call: Call): Promise<readonly Outcome[]> {
    const token = writes[0]?.after.version ?? ''
    const outcomes = await this.#sent(writes, () => this.#requests.transact(writes, token, call))
    const isDone = outcomes.every((outcome) => outcome.isDone)
    return outcomes.map(({ state }) => ({ isDone, state }))
  }

  async #sent(writes: readonly Write[], send: () => Promise<readonly Written[]>): Promise<readonly Outcome[]> {
    const before = writes.map(({ lease }) => this.known.doubts(lease))
    const doubts = writes.map(({ lease, was }) => this.known.begin(lease, was))
    const end = (index: number): void => {
      const { lease } = writes[index] as Write
      if (doubts[index] !== undefined) this.known.end(lease, doubts[index])
    }
    let written: readonly Written[]
    try {
      written = await send()
    } catch (error) {
      if (error instanceof StoreFailure && error.isNotDone) for (const index of writes.keys()) end(index)
      throw error
    }
    const areAllDone = written.every(({ isDone }) => isDone)
    return writes.map((write, index): Outcome => {
      end(index)
      const answer = written[index] as Written
      const outcome = outcomeOf(write, answer)
      // The version that earlier writes demand is gone, whichever of them this one has met.
      if (areAllDone || (!answer.isDone && outcome.isDone)) this.known.end(write.lease, ...(before[index] ?? []))
      if (outcome.state !== undefined && (areAllDone || !answer.isDone)) this.known.learn(write.lease, outcome.state)
      return outcome
    })
  }
}

/** A copy of this write may have been first, which the driver has sent before: it met its own version then. */
function outcomeOf(write: Write, answer: Written): Outcome {
  const { after } = write
  if (answer.isDone) return { isDone: true, state: after === 'deleted' ? ABSENT : after }
  const state = answer.found === undefined ? undefined : stateIn(answer.found)
  return { isDone: isWrittenBy(write, state), state }
}

function isWrittenBy(write: Write | undefined, state: State | undefined): boolean {
  return (
    write !== undefined && write.after !== 'deleted' && state !== undefined && state.version === write.after.version
  )
}
