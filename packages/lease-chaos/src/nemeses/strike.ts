/** What nemeses have in common: a fault that begins, lasts for a while, and is mended also when the run ends it. */
import { setTimeout as pass } from 'node:timers/promises'
import type { Battle, Nemesis } from '../ground.ts'

/** A nemesis that knows what it breaks: `storm` mixes only what does not meet on the same thing. */
export interface Fault extends Nemesis {
  readonly breaks: 'nothing' | 'worker' | 'clock' | 'connection' | 'server'
}

/** Undoes what was done. */
export type Mend = () => void | Promise<void>

export interface Span {
  readonly fromMs: number
  readonly toMs: number
}

interface Description {
  readonly breaks: Fault['breaks']
  /** For how long, by chance between these. */
  readonly lasts: Span
  readonly isControl?: boolean
}

/** A nemesis whose fault `begin` starts. What it returns mends it; `say` writes what exactly it does into the history. */
export function fault(
  name: string,
  { breaks, lasts, isControl = false }: Description,
  begin: (battle: Battle, say: (detail: string) => void) => Mend | Promise<Mend>,
): Fault {
  return {
    name,
    breaks,
    isControl,
    async strike(battle) {
      if (battle.signal.aborted) return
      battle.note(name)
      let mend: Mend | undefined
      try {
        mend = await begin(battle, (detail) => battle.note(name, detail))
        await lasting(battle, between(battle, lasts))
      } finally {
        await mend?.()
        battle.note(`${name} ends`)
      }
    },
  }
}

/** Resolves after so long, or as soon as the run wants everything sound again. */
export async function lasting({ signal }: Pick<Battle, 'signal'>, ms: number): Promise<void> {
  await pass(ms, undefined, { signal }).catch(() => undefined)
}

/** Does something again and again, with pauses by chance between these, until the signal aborts. Rejects with what it throws. */
export function repeatedly(battle: Battle, span: Span, act: () => void | Promise<void>): Mend {
  const ended = new AbortController()
  const signal = AbortSignal.any([ended.signal, battle.signal])
  const running = (async () => {
    while (!signal.aborted) {
      await act()
      await lasting({ signal }, between(battle, span))
    }
  })()
  running.catch(() => undefined) // reported by the mend
  return async () => {
    ended.abort()
    await running
  }
}

/** A number between these, by the seed. */
export function between(battle: Pick<Battle, 'random'>, { fromMs, toMs }: Span): number {
  return fromMs + battle.random() * (toMs - fromMs)
}

/** One of these, by the seed. */
export function oneOf<const T>(battle: Pick<Battle, 'random'>, choices: readonly [T, ...T[]]): T {
  return choices[Math.floor(battle.random() * choices.length)] ?? choices[0]
}

/** Some of these, by the seed: at least one if there is any, at most `most`. */
export function some<T>(battle: Pick<Battle, 'random'>, choices: readonly T[], most: number): readonly T[] {
  const left = [...choices]
  const taken: T[] = []
  const count = 1 + Math.floor(battle.random() * most)
  while (taken.length < count && left.length > 0) {
    taken.push(...left.splice(Math.floor(battle.random() * left.length), 1))
  }
  return taken
}
