/** Nemeses that choose among the others: for long runs. */
import type { Battle, Nemesis } from '../ground.ts'
import { between, type Fault, lasting, type Span } from './strike.ts'

/** One or two at a time, one after another. */
const STORM: Span = { fromMs: 5000, toMs: 15_000 }
/** The time until the next one. */
const CALM: Span = { fromMs: 2000, toMs: 10_000 }

/** @param faults of one ground; controls are left out */
export function mixedNemeses(faults: readonly Fault[]): readonly Nemesis[] {
  const allowed = faults.filter(({ isControl, breaks }) => !isControl && breaks !== 'nothing')
  return [
    {
      name: 'storm',
      isControl: false,
      async strike(battle) {
        battle.note('storm')
        const untilMs = performance.now() + between(battle, STORM)
        while (!battle.signal.aborted && performance.now() < untilMs) {
          const first = choose(battle, allowed)
          // Two at once break different things: a server that is down cannot be asked for anything.
          const others = allowed.filter(({ breaks }) => breaks !== first?.breaks)
          const second = battle.random() < 0.5 ? choose(battle, others) : undefined
          await all([first, second], battle)
        }
        battle.note('storm ends')
      },
    },
    {
      name: 'weather',
      isControl: false,
      async strike(battle) {
        await lasting(battle, between(battle, CALM))
        await all([choose(battle, allowed)], battle)
      },
    },
  ]
}

function choose(battle: Battle, faults: readonly Fault[]): Fault | undefined {
  return faults[Math.floor(battle.random() * faults.length)]
}

/** Ends when all have ended; what one throws comes after the others have mended. */
async function all(faults: readonly (Fault | undefined)[], battle: Battle): Promise<void> {
  const ends = await Promise.allSettled(faults.map(async (one) => one?.strike(battle)))
  for (const end of ends) if (end.status === 'rejected') throw end.reason
}
