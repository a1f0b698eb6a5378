/** Runs a random tester for seeds. For a seed that fails, says what a person needs to repeat it. */
import { shrink } from './shrink.ts'
import type { Outcome, Tester } from './tester.ts'

/** Which runs. */
export interface Plan {
  readonly flags: readonly string[]
  /** How long each run is. */
  readonly steps: number
}

/** What must not be in a run: the rule, and what was seen. */
export type Problem = Outcome['problems'][number]

/** How many of the last steps are shown. */
const LAST_STEPS = 40

/**
 * Runs one seed after the other.
 *
 * @param cpuMs once so much CPU time is used up, no more are run. @default all are run
 * @returns how many were run
 * @throws Error for the first that fails: what was seen, the fewest steps that still fail, and the command that repeats it
 */
export async function runSeeds<Settings>(
  tester: Tester<Settings>,
  seeds: Iterable<number>,
  {
    flags = [],
    cpuMs = Number.POSITIVE_INFINITY,
  }: { readonly flags?: readonly string[]; readonly cpuMs?: number } = {},
): Promise<number> {
  const plan = { flags, steps: tester.defaultSteps }
  const before = process.cpuUsage()
  let runs = 0
  for (const seed of seeds) {
    const [problem] = (await tester.run(tester.settingsOf(seed, flags, plan.steps), { log: false })).problems
    if (problem !== undefined) throw new Error(await failureOf(tester, seed, plan, problem))
    runs++
    const { user, system } = process.cpuUsage(before)
    if ((user + system) / 1000 > cpuMs) break
  }
  return runs
}

/** From this one on, without an end. */
export function* seedsFrom(seed: number): Generator<number> {
  for (;;) yield seed++
}

/** Shrinks a run that fails, and tells of it. @param all every step that is left, instead of the last ones */
export async function failureOf<Settings>(
  tester: Tester<Settings>,
  seed: number,
  { flags, steps }: Plan,
  { rule, what }: Problem,
  all: boolean = false,
): Promise<string> {
  const settings = tester.settingsOf(seed, flags, steps)
  const { without, result } = await shrink({ rule, steps, rerun: (options) => tester.run(settings, options) })
  const again = [
    `--seeds ${seed}`,
    flags.length > 0 ? `--flags ${flags.join()}` : '',
    steps === tester.defaultSteps ? '' : `--steps ${steps}`,
  ]
  return [
    `seed ${seed} (${tester.featuresOf(settings).join()}): ${rule}: ${what}`,
    `${steps - without.size} of ${steps} steps are enough; the last ones:`,
    ...(all ? result.log : result.log.slice(-LAST_STEPS)),
    `again: npx -y pnpm@10 ${tester.script} ${again.filter(Boolean).join(' ')} --log`,
  ].join('\n')
}
