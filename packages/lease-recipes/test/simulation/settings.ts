/** What one run is made of: its seed decides, unless a flag does. */
import { Random } from 'lease-simulation'

/** What a run may have or not; a flag turns one on (`late`) or off (`no-late`). */
export const FEATURES = {
  clockless: 'the store has no clock',
  late: 'packets are seconds late, or execute after the connection broke',
  twice: 'packets are executed twice',
  losses: 'packets and answers are lost, rejected, hang',
  hints: 'hints are lost, doubled, late, invented',
  blind: 'one process gets no hints at all',
  jumps: 'wall clocks are set',
  suspends: 'machines sleep',
  stalls: 'event loops stand still',
  drift: 'clocks run at different rates',
  restarts: 'processes stop or are killed, and come back under the same name',
  same: 'processes use the same holder names where a recipe allows it',
  operators: 'an operator resizes, destroys, steals, frees and forgets',
  semaphores: 'semaphores and throttles are used',
  locks: 'read-write locks, web locks and fenced locks are used',
  leaders: 'authorities, elections and `lead` are used',
  works: '`withLease`, `holdAll`, `Once` and `OncePer` are used',
} as const

export type Feature = keyof typeof FEATURES

export interface Settings extends Readonly<Record<Feature, boolean>> {
  readonly seed: number
  readonly steps: number
  readonly requestTimeoutMs: number
  readonly maxSleepMs: number
  /** For the faults: there are counted leases. */
  readonly counted: true
  readonly strict: false
}

export const DEFAULT_STEPS = 200
const RECIPES: readonly Feature[] = ['semaphores', 'locks', 'leaders', 'works']

/** @param flags names of features, those to be off with `no-` before them */
export function settingsOf(seed: number, flags: readonly string[] = [], steps: number = DEFAULT_STEPS): Settings {
  const random = new Random(seed ^ 0x4ec1_9e5a)
  const features = {} as Record<Feature, boolean>
  for (const feature of Object.keys(FEATURES) as Feature[]) {
    const drawn = random.chance(feature === 'clockless' ? 0.25 : 0.5)
    features[feature] = flags.includes(feature) || (drawn && !flags.includes(`no-${feature}`))
  }
  const one = random.pick(RECIPES)
  if (!RECIPES.some((feature) => features[feature]) && !flags.includes(`no-${one}`)) features[one] = true
  // A store without a clock remembers one claim of each lease: see `strict` of the tester of the core.
  if (features.clockless) features.twice = false
  return {
    ...features,
    seed,
    steps,
    requestTimeoutMs: random.pick([400, 2_000, 5_000]),
    maxSleepMs: random.pick([3_000, 10_000]),
    counted: true,
    strict: false,
  }
}

/** What is turned on. */
export function featuresOf(settings: Settings): readonly Feature[] {
  return (Object.keys(FEATURES) as Feature[]).filter((feature) => settings[feature])
}

/** @throws Error naming the flag that is none */
export function checkFlags(flags: readonly string[]): void {
  for (const flag of flags) {
    if (!(flag.replace(/^no-/, '') in FEATURES)) {
      const names = Object.keys(FEATURES).join(', ')
      throw new Error(`"${flag}" is not a flag; there are ${names}, each also with "no-" before it`)
    }
  }
}
