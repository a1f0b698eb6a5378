/** `lease watch`: one line for each change of a lease. `lease wait`: until nobody holds it. */
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { sleep, type Info } from 'lease-core'
import type { Context } from '../context.ts'
import { parseDuration } from '../durations.ts'
import { CommandEnd, EXIT, wrongUsage } from '../exit-codes.ts'
import { leaseJson, stamp, viewOf } from '../lease-view.ts'
import { oneLine } from '../output.ts'
import { SECRET_VARIABLES } from '../settings.ts'

/** The flags of `lease watch`. */
export interface WatchFlags {
  readonly exec?: string
  readonly until?: string
  readonly timeout?: string
}

/** Reports the state of each lease, and every change. With `--until` it ends when one of them is held, or all are free. */
export async function watch(context: Context, names: readonly string[], flags: WatchFlags): Promise<number> {
  const { until } = flags
  if (until !== undefined && until !== 'held' && until !== 'free') {
    throw wrongUsage(`--until must be held or free (got ${until})`)
  }
  const timeoutMs = flags.timeout === undefined ? undefined : parseDuration(flags.timeout, '--timeout')
  return context.withStore(async (store, interrupt) => {
    const done = new AbortController()
    const signal = AbortSignal.any([interrupt, done.signal])
    const states = new Map<string, boolean>()
    const isDone = (): boolean =>
      until === 'held'
        ? [...states.values()].includes(true)
        : until === 'free' && states.size === names.length && ![...states.values()].includes(true)
    const follow = async (lease: string): Promise<void> => {
      for await (const info of store.manager.observe(lease, { signal })) {
        states.set(lease, info !== undefined)
        report(context, lease, info)
        if (flags.exec !== undefined) await runHandler(context, flags.exec, lease, info)
        if (isDone()) return done.abort(FINISHED)
      }
    }
    try {
      const timeout = timeoutMs === undefined ? [] : [expire(context, timeoutMs, signal)]
      await Promise.race([Promise.all(names.map(follow)), ...timeout])
    } catch (error) {
      if (error !== FINISHED) throw error
    } finally {
      done.abort(FINISHED)
    }
    return EXIT.ok
  })
}

/** Waits until nobody holds the lease. @throws CommandEnd 75: `--timeout` was over before */
export async function wait(context: Context, name: string, flags: { readonly timeout?: string }): Promise<number> {
  const timeoutMs = flags.timeout === undefined ? undefined : parseDuration(flags.timeout, '--timeout')
  return context.withStore(async (store, interrupt) => {
    const done = new AbortController()
    const signal = AbortSignal.any([interrupt, done.signal])
    try {
      const timeout = timeoutMs === undefined ? [] : [expire(context, timeoutMs, signal)]
      await Promise.race([store.manager.waitUntilExpired(name, { signal }), ...timeout])
    } finally {
      done.abort(FINISHED)
    }
    if (context.out.json) context.out.object({ lease: name, holder: null })
    return EXIT.ok
  })
}

const FINISHED = new Error('finished')

async function expire({ io }: Context, timeoutMs: number, signal: AbortSignal): Promise<never> {
  await sleep(io.clock, timeoutMs, signal)
  throw new CommandEnd(EXIT.busy, 'the time of --timeout is over')
}

function report(context: Context, lease: string, info: Info | undefined): void {
  const { out } = context
  const nowMs = context.now()
  const at = stamp(nowMs)
  if (out.json) {
    const fields = info === undefined ? { lease, holder: null } : leaseJson(viewOf(lease, info), nowMs)
    return out.object({ at, change: info === undefined ? 'vacant' : 'held', ...fields })
  }
  if (info === undefined) return out.line(`${out.dim(at)} ${lease} ${out.good('vacant')}`)
  const value = info.value === undefined ? '' : `, value ${oneLine(info.value)}`
  const pinned = info.pinned ? ', pinned' : ''
  out.line(
    `${out.dim(at)} ${lease} ${out.doubtful('held')} by ${info.holder}, fencing token ${info.fencingToken}${pinned}${value}`,
  )
}

/** Runs the handler in the shell. @throws CommandEnd with its code, where that is not 0 */
async function runHandler({ io }: Context, command: string, lease: string, info: Info | undefined): Promise<void> {
  const code = await runShell(command, io.env, {
    LEASE_NAME: lease,
    LEASE_HELD: info === undefined ? '0' : '1',
    LEASE_HOLDER: info?.holder ?? '',
    LEASE_FENCING_TOKEN: info === undefined ? '' : String(info.fencingToken),
    LEASE_VALUE: info?.value ?? '',
  })
  if (code !== 0) throw new CommandEnd(code, `the command of --exec ended with ${code}`)
}

/** Runs a command line in the shell of the user, without the variables that have passwords. Resolves to its code; a signal n is 128 + n. */
export async function runShell(
  command: string,
  env: Context['io']['env'],
  variables: Readonly<Record<string, string>>,
): Promise<number> {
  const own = Object.fromEntries(Object.entries(env).filter(([name]) => !SECRET_VARIABLES.includes(name)))
  const child = spawn(env['SHELL'] ?? '/bin/sh', ['-c', command], { stdio: 'inherit', env: { ...own, ...variables } })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('exit', (code, signal) => resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])))
  })
}
