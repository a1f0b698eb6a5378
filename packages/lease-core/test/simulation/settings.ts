/** What one run is made of: its seed decides, unless a flag does. */
import { Random } from 'lease-simulation'

/** What a run may have or not; a flag turns one on (`late`) or off (`no-late`). */
export const FEATURES = {
  clockless: 'the store has no clock',
  fallback: 'the client of one process lacks the optional methods',
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
  same: 'processes use the same holder names',
  unique: 'each call has a holder name of its own',
  revokes: 'leases are revoked',
  pins: 'leases are pinned',
  shares: 'holds share their terms',
  counted: 'shares of counted leases are held',
  rare: 'held is asked rarely, so that nobody reads the clocks on the way',
  strict: 'also what is known not to hold yet (docs/reliability.md); only by flag',
} as const

export type Feature = keyof typeof FEATURES

export interface Settings extends Readonly<Record<Feature, boolean>> {
  readonly seed: number
  readonly steps: number
  readonly leases: readonly string[]
  /** Counted leases. */
  readonly countedNames: readonly string[]
  readonly requestTimeoutMs: number
  readonly maxSleepMs: number
}

export const DEFAULT_STEPS = 300

/** @param flags names of features, those to be off with `no-` before them */
export function settingsOf(seed: number, flags: readonly string[] = [], steps: number = DEFAULT_STEPS): Settings {
  const random = new Random(seed ^ 0x5e77_1465)
  const features = {} as Record<Feature, boolean>
  // Drawn apart, so that other seeds stay what they were.
  const ofCounted = new Random(seed ^ 0x00c0_47ed)
  for (const feature of Object.keys(FEATURES) as Feature[]) {
    if (feature === 'counted') {
      features[feature] = flags.includes(feature) || (ofCounted.chance(0.5) && !flags.includes(`no-${feature}`))
      continue
    }
    const drawn = feature !== 'strict' && random.chance(feature === 'rare' || feature === 'clockless' ? 0.3 : 0.5)
    features[feature] = flags.includes(feature) || (drawn && !flags.includes(`no-${feature}`))
  }
  // A store without a clock remembers one claim of each lease: see `strict`.
  if (features.clockless && !features.strict) features.twice = false
  return {
    ...features,
    seed,
    steps,
    leases: ['A', 'B', 'C'].slice(0, random.pick([1, 2, 3, 3])),
    countedNames: features.counted ? ['S', 'T'].slice(0, ofCounted.pick([1, 1, 2])) : [],
    requestTimeoutMs: random.pick([400, 2_000, 5_000]),
    maxSleepMs: random.pick([3_000, 10_000]),
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
      throw new Error(
        `"${flag}" is not a flag; there are ${Object.keys(FEATURES).join(', ')}, each also with "no-" before it`,
      )
    }
  }
}
