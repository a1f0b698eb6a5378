/**
 * Negative controls: runs that must find something. In one the workers break a promise each on a lease of its own, beside pauses of the
 * workers; in the other the clock of the server is set forward. A check that has never been seen to fail proves nothing.
 */
import type { Ground, Nemesis } from '../ground.ts'
import { BROKEN, brokenLease, type Broken } from './acts.ts'
import { judge, type Violation } from './checks/index.ts'
import type { ChaosEvent } from './event.ts'
import type { RunSettings } from './history.ts'
import { run, type RunOptions } from './run.ts'

/** Something that is wrong on purpose, and how it shows. */
interface Control {
  readonly name: string
  isShownBy(violation: Violation): boolean
}

/** Controls that one run shows. */
interface ControlRun {
  readonly name: string
  readonly nemesis: string
  readonly broken: boolean
  readonly controls: readonly Control[]
}

const FOUND_BY: Readonly<Record<Broken, string>> = { 'guard-off': 'C3', 'reply-trust': 'C1', 'nameless-release': 'C1' }

const CONTROL_RUNS: readonly ControlRun[] = [
  {
    name: 'broken-workers',
    nemesis: 'stop-short',
    broken: true,
    controls: BROKEN.map((name) => ({
      name,
      isShownBy: ({ check, lease }) => check === FOUND_BY[name] && lease === brokenLease(name),
    })),
  },
  {
    name: 'server-clock',
    nemesis: 'wall-server-forward',
    broken: false,
    controls: [{ name: 'server-clock', isShownBy: ({ check }) => ['C1', 'C2', 'C4', 'C8'].includes(check) }],
  },
]

/** A control ends when it has found something. This is when it has not. */
const PATIENCE_MINUTES = 3
const WORKERS = 2

export interface ControlResult {
  readonly name: string
  readonly isFound: boolean
  /** The first finding; or that there was none. */
  readonly what: string
}

type ControlOptions = Pick<RunOptions, 'ground' | 'seed' | 'signal' | 'report'>

/**
 * Runs each control that the ground can have. Ends early when the signal aborts; what was not found until then is not reported.
 *
 * @param folderOf where the history of a run with this name goes
 */
export async function runControls(
  options: ControlOptions,
  folderOf: (name: string) => string,
): Promise<ControlResult[]> {
  const results: ControlResult[] = []
  for (const controlRun of CONTROL_RUNS) {
    const nemesis = nemesisOf(options.ground, controlRun)
    if (nemesis === undefined || options.signal.aborted) continue
    results.push(...(await runControl(controlRun, nemesis, { ...options, folder: folderOf(controlRun.name) })))
  }
  return results
}

async function runControl(
  { name, controls, broken }: ControlRun,
  nemesis: Nemesis,
  options: ControlOptions & Pick<RunOptions, 'folder'>,
): Promise<ControlResult[]> {
  const { ground, seed, signal, report } = options
  const found = new Map<Control, Violation>()
  const isEnough = (events: readonly ChaosEvent[]): boolean => {
    const { violations } = judge({ settings: { ground: ground.name, seed } as RunSettings, events, damage: [] })
    for (const control of controls) {
      const first = violations.find((violation) => control.isShownBy(violation))
      if (first !== undefined && !found.has(control)) found.set(control, first)
    }
    return found.size === controls.length
  }
  await run({
    ...options,
    nemeses: [nemesis],
    minutes: PATIENCE_MINUTES,
    workers: WORKERS,
    report: (line) => report(`${name} on ${line}`),
    broken,
    isEnough,
  })
  return controls.flatMap((control) => {
    const first = found.get(control)
    if (first === undefined && signal.aborted) return []
    const what =
      first === undefined ? 'nothing: the checks do not see it' : `${first.check} ${first.lease}: ${first.what}`
    return [{ name: control.name, isFound: first !== undefined, what }]
  })
}

function nemesisOf({ nemeses }: Ground, { nemesis }: ControlRun): Nemesis | undefined {
  return nemeses.find(({ name }) => name === nemesis)
}
