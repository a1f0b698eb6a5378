/** Signals to a process group, and who is in it. */
import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { promisify } from 'node:util'

/** Sends the signal. Returns false if nobody is there. */
export function signalTo(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(pid, signal)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
    if ((error as NodeJS.ErrnoException).code === 'EPERM') return true // somebody is there, as another user
    throw error
  }
}

/** The processes of this group, without those that are dead and not yet reaped. */
export async function membersOf(group: number): Promise<readonly number[]> {
  return existsSync('/proc/self/stat') ? fromProc(group) : fromPs(group)
}

/** Whether this process runs: one that is dead and not yet reaped does not. */
export async function isRunning(pid: number): Promise<boolean> {
  if (!signalTo(pid, 0)) return false
  if (!existsSync('/proc/self/stat')) return true
  return statOf(String(pid)).some(({ state }) => state !== 'Z' && state !== 'X')
}

function fromProc(group: number): number[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return []
    return statOf(name).flatMap(({ state, group: its }) =>
      its === group && state !== 'Z' && state !== 'X' ? [Number(name)] : [],
    )
  })
}

/** Nothing: it has ended. */
function statOf(pid: string): readonly { readonly state: string; readonly group: number }[] {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The name of the program is in brackets and may contain anything.
    const [state = '', , group] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return [{ state, group: Number(group) }]
  } catch {
    return []
  }
}

async function fromPs(group: number): Promise<number[]> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,pgid=,stat='])
  return stdout.split('\n').flatMap((line) => {
    const [pid, its, state = ''] = line.trim().split(/\s+/)
    return Number(its) === group && !state.startsWith('Z') ? [Number(pid)] : []
  })
}
