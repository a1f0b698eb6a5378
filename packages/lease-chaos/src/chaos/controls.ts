/** Negative controls: runs that must find something. Workers break one promise beside a fault that shows it, or the store does. */
import type { Ground, Nemesis } from '../ground.ts'
import { BROKEN, type Broken } from './acts.ts'
import { judge } from './checks/index.ts'
import type { ChaosEvent } from './event.ts'
import type { RunSettings } from './history.ts'
import { run, type RunOptions } from './run.ts'

/** What is wrong in a control, and by which checks it must be found. */
interface Control {
  readonly name: string
  readonly nemesis: string
  readonly broken?: Broken
  readonly checks: readonly string[]
}

const FOUND_BY: Readonly<Record<Broken, readonly string[]>> = {
  'guard-off': ['C3'],
  'reply-trust': ['C1'],
  'nameless-release': ['C1'],
}

const CONTROLS: readonly Control[] = [
  ...BROKEN.map((broken) => ({ name: broken, nemesis: 'stop-short', broken, checks: FOUND_BY[broken] })),
  { name: 'server-clock', nemesis: 'wall-server-forward', checks: ['C1', 'C2', 'C4', 'C8'] },
]

/** A control ends when it has found something. This is when it has not. */
const PATIENCE_MINUTES = 3

export interface ControlResult {
  readonly name: string
  readonly isFound: boolean
  /** The first finding; or that there was none. */
  readonly what: string
}

/** Runs each control that the ground can have. Ends early, with those that are done, when the signal aborts. */
export async function runControls(
  options: Pick<RunOptions, 'ground' | 'seed' | 'signal' | 'report'>,
  folderOf: (control: string) => string,
): Promise<ControlResult[]> {
  const results: ControlResult[] = []
  for (const control of CONTROLS) {
    const nemesis = options.ground.nemeses.find(({ name }) => name === control.nemesis)
    if (nemesis === undefined || options.signal.aborted) continue
    const result = await runControl(control, nemesis, { ...options, folder: folderOf(control.name) })
    if (!options.signal.aborted || result.isFound) results.push(result)
  }
  return results
}

async function runControl(
  control: Control,
  nemesis: Nemesis,
  options: Pick<RunOptions, 'ground' | 'seed' | 'signal' | 'report' | 'folder'>,
): Promise<ControlResult> {
  let found: string | undefined
  const isEnough = (events: readonly ChaosEvent[]): boolean => {
    const settings = { ground: options.ground.name, seed: options.seed } as RunSettings
    const { violations } = judge({ settings, events, damage: [] })
    const violation = violations.find(({ check }) => control.checks.includes(check))
    if (violation !== undefined) found = `${violation.check} ${violation.lease}: ${violation.what}`
    return violation !== undefined
  }
  await run({
    ...options,
    nemeses: [nemesis],
    minutes: PATIENCE_MINUTES,
    workers: 3,
    report: (line) => options.report(`${control.name} on ${line}`),
    broken: control.broken,
    isEnough,
  })
  return {
    name: control.name,
    isFound: found !== undefined,
    what: found ?? 'found nothing: the checks are blind to it',
  }
}

/** Names of the controls that this ground has. */
export function controlsOf(ground: Ground): string[] {
  return CONTROLS.filter(({ nemesis }) => ground.nemeses.some(({ name }) => name === nemesis)).map(({ name }) => name)
}
