/** What may befall a server's process: pause, death, restart. */
import type { Battle } from '../ground.ts'
import type { ProcessShim } from '../shim.ts'
import { between, fault, type Fault, lasting, type Mend, repeatedly, type Span } from './strike.ts'

/** What can be done to a process of a server; one of lease-servers fits. */
export interface Pausable {
  pause(): void
  resume(): void
}

export interface Restartable extends Pausable {
  kill(): Promise<void>
  restart(): Promise<void>
}

const PAUSE: Span = { fromMs: 100, toMs: 3500 }
const DOWN: Span = { fromMs: 100, toMs: 1500 }

/** @param server the one to be hit now */
export function pause(name: string, server: () => Pausable | Promise<Pausable>, lasts: Span = PAUSE): Fault {
  return fault(name, { breaks: 'server', lasts }, async () => {
    const victim = await server()
    victim.pause()
    return () => victim.resume()
  })
}

/** SIGKILL, and a start on the same data and port after a while. */
export function kill(name: string, server: () => Restartable | Promise<Restartable>): Fault {
  return fault(name, { breaks: 'server', lasts: DOWN }, async () => {
    const victim = await server()
    await victim.kill()
    return async () => victim.restart()
  })
}

/** An orderly stop and a start. */
export function restart(name: string, server: () => Restartable | Promise<Restartable>): Fault {
  return fault(name, { breaks: 'server', lasts: { fromMs: 0, toMs: 500 } }, async () => {
    await (await server()).restart()
    return () => undefined
  })
}

export const SERVER_CLOCK_NEMESES = [
  'wall-server-back',
  'wall-server-forward',
  'slow-fsync',
  'slow-fsync-kill',
] as const

/** On a server that runs under the shim. */
export function serverClockNemeses(shim: ProcessShim, server: Restartable): readonly Fault[] {
  return [
    // Back, and again back, from true time on. In the end the clock catches up, as after a correction.
    fault('wall-server-back', { breaks: 'server', lasts: { fromMs: 1000, toMs: 4000 } }, (battle) => {
      const end = repeatedly(battle, { fromMs: 200, toMs: 1000 }, () => {
        shim.wallMs -= Math.round(between(battle, { fromMs: 50, toMs: 1200 }))
      })
      return async () => {
        await end()
        shim.wallMs = 0
      }
    }),
    fault(
      'wall-server-forward',
      { breaks: 'server', lasts: { fromMs: 1000, toMs: 4000 }, isControl: true },
      (battle, say) => {
        const ms = Math.round(between(battle, { fromMs: 1000, toMs: 60_000 }))
        shim.wallMs = ms
        say(`by ${ms} ms`)
        return () => {
          shim.wallMs = 0
        }
      },
    ),
    slowFsync('slow-fsync', shim, () => undefined),
    slowFsync('slow-fsync-kill', shim, async (battle) => {
      await lasting(battle, between(battle, { fromMs: 100, toMs: 1500 }))
      await server.kill()
      return async () => server.restart()
    }),
  ]
}

/** Each fsync and fdatasync of the server takes longer. @param then happens meanwhile, and returns what mends it */
function slowFsync(name: string, shim: ProcessShim, then: (battle: Battle) => Promise<Mend> | undefined): Fault {
  return fault(name, { breaks: 'server', lasts: { fromMs: 500, toMs: 3000 } }, async (battle, say) => {
    const ms = Math.round(between(battle, { fromMs: 20, toMs: 400 }))
    say(`${ms} ms each`)
    shim.fsyncMs = ms
    try {
      const mend = await then(battle)
      return async () => {
        shim.fsyncMs = 0 // first: a server that starts would take as long
        await mend?.()
      }
    } catch (error) {
      shim.fsyncMs = 0
      throw error
    }
  })
}
