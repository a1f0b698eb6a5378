/** What may befall workers: on every ground. */
import type { Ways } from '../grounds/ways.ts'
import type { Worker } from '../workers.ts'
import { between, fault, type Fault, repeatedly, some } from './strike.ts'

const HOUR_MS = 3_600_000

/** @param ways those of the workers, whose clocks can be moved; each started worker has one */
export function workerNemeses(ways: Ways): readonly Fault[] {
  return [
    fault('none', { breaks: 'nothing', lasts: { fromMs: 500, toMs: 3000 } }, () => () => undefined),
    stop('stop-short', 40, 450),
    stop('stop-long', 800, 4000),
    fault('kill-worker', { breaks: 'worker', lasts: { fromMs: 0, toMs: 1000 } }, (battle, say) => {
      const [victim] = some(battle, running(battle.workers), 1)
      victim?.kill()
      say(victim?.name ?? 'nobody runs')
      return async () => {
        if (victim === undefined) return
        await ways.remove(victim.name)
        say(`${(await battle.startWorker()).name} in place of ${victim.name}`)
      }
    }),
    // Each worker gets the order once. A worker that is late obeys late, and is sound after that.
    fault('block-loop', { breaks: 'worker', lasts: { fromMs: 60, toMs: 1800 } }, (battle, say) => {
      for (const worker of some(battle, running(battle.workers), 3)) {
        const spinMs = Math.round(between(battle, { fromMs: 60, toMs: 1800 }))
        worker.tell({ spinMs })
        say(`${worker.name} for ${spinMs} ms`)
      }
      return () => undefined
    }),
    ...clockNemeses(ways),
  ]
}

/** Those that need the shim. */
export const CLOCK_NEMESES = ['wall-workers', 'drift-within', 'drift-beyond'] as const

function clockNemeses(ways: Ways): readonly Fault[] {
  return [
    fault('wall-workers', { breaks: 'clock', lasts: { fromMs: 1000, toMs: 6000 } }, (battle) => {
      const jump = (): void => {
        for (const { shim } of some(battle, ways.all, 3)) {
          if (shim !== undefined) shim.wallMs = Math.round((2 * battle.random() - 1) * HOUR_MS)
        }
      }
      const end = repeatedly(battle, { fromMs: 50, toMs: 500 }, jump)
      return async () => {
        await end()
        for (const { shim } of ways.all) if (shim !== undefined) shim.wallMs = 0
      }
    }),
    drift('drift-within', 0.0005, false),
    drift('drift-beyond', 0.03, true),
  ]

  function drift(name: string, rate: number, isControl: boolean): Fault {
    return fault(name, { breaks: 'clock', lasts: { fromMs: 4000, toMs: 10_000 }, isControl }, (battle, say) => {
      for (const { worker, shim } of ways.all) {
        const sign = battle.random() < 0.5 ? -1 : 1
        if (shim !== undefined) shim.rate = sign * rate
        say(`${worker}: ${sign * rate * 100} %`)
      }
      return () => {
        for (const { shim } of ways.all) if (shim !== undefined) shim.rate = 0
      }
    })
  }
}

function stop(name: string, fromMs: number, toMs: number): Fault {
  return fault(name, { breaks: 'worker', lasts: { fromMs, toMs } }, (battle, say) => {
    const stopped = some(battle, running(battle.workers), 3)
    for (const worker of stopped) worker.pause()
    say(stopped.map((worker) => worker.name).join(', '))
    return () => {
      for (const worker of running(stopped)) worker.resume()
    }
  })
}

function running(workers: readonly Worker[]): readonly Worker[] {
  return workers.filter((worker) => worker.running)
}
