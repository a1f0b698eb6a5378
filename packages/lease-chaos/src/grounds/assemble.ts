/** Puts a ground together from a store and what may befall it. */
import type { Ground, GroundName, Nemesis, Reach } from '../ground.ts'
import { mixedNemeses } from '../nemeses/mixed.ts'
import type { Fault } from '../nemeses/strike.ts'
import { CLOCK_NEMESES, workerNemeses } from '../nemeses/workers.ts'
import type { Ways } from './ways.ts'

/** What a ground may know of itself when it opens. */
export interface GroundOptions {
  readonly namespace: string
  /** Of the shim for clocks and fsync. @default cc */
  readonly compiler?: string
}

interface Parts {
  readonly name: GroundName
  readonly ways: Ways
  readonly judge: Reach
  readonly reach: Ground['reach']
  /** Beside those of workers, which every ground has. */
  readonly faults: readonly Fault[]
  /** Names of those that need the shim, beside those of workers. */
  readonly withShim?: readonly string[]
  readonly promotions?: Ground['promotions']
  readonly losses?: Ground['losses']
  /** Ends what was started, the last first. */
  readonly stack: Opened
}

export function assembled(parts: Parts): Ground {
  const { name, ways, judge, reach, faults, withShim = [], promotions, losses, stack } = parts
  const needShim = new Set<string>(ways.shim === undefined ? [...CLOCK_NEMESES, ...withShim] : [])
  const all = [...workerNemeses(ways), ...faults].filter((one) => !needShim.has(one.name))
  const nemeses: readonly Nemesis[] = [...all, ...mixedNemeses(all)]
  return {
    name,
    nemeses,
    judge,
    reach,
    leftOut: [...needShim].map((one) => ({ name: one, why: ways.whyNoShim })),
    ...(promotions !== undefined && { promotions }),
    ...(losses !== undefined && { losses }),
    [Symbol.asyncDispose]: async () => stack[Symbol.asyncDispose](),
  }
}

/** What has been opened, to be closed the last first. */
export class Opened implements AsyncDisposable {
  readonly #all: AsyncDisposable[] = []

  use<T extends AsyncDisposable>(one: T): T {
    this.#all.push(one)
    return one
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (let one = this.#all.pop(); one !== undefined; one = this.#all.pop()) await one[Symbol.asyncDispose]()
  }
}

/** Opens something in parts; what was opened is closed again when a later part fails. */
export async function inParts<T>(open: (stack: Opened) => Promise<T>): Promise<T> {
  const stack = new Opened()
  try {
    return await open(stack)
  } catch (error) {
    await stack[Symbol.asyncDispose]()
    throw error
  }
}
