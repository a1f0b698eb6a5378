/** What may befall the connections between workers and a store: on every ground whose workers come in through proxies. */
import type { Impairment } from 'lease-servers'
import type { RemoteProxy } from '../grounds/proxies.ts'
import type { Battle } from '../ground.ts'
import { between, fault, type Fault, type Mend, oneOf, repeatedly, some, type Span } from './strike.ts'

const USUAL: Span = { fromMs: 800, toMs: 4000 }

/** @param proxies those of the workers of now */
export function connectionNemeses(proxies: () => readonly RemoteProxy[]): readonly Fault[] {
  const impairing = (name: string, lasts: Span, choose: (battle: Battle) => Impairment): Fault =>
    fault(name, { breaks: 'connection', lasts }, async (battle, say) => {
      const impairment = choose(battle)
      say(JSON.stringify(impairment))
      return impairAll(someOrAll(battle, proxies()), impairment)
    })
  const cutRequests = (when: 'before' | 'after'): Fault =>
    impairing(`cut-${when}`, USUAL, (battle) => ({
      kind: 'cut-requests',
      when,
      share: oneOf(battle, [0.02, 0.1, 0.3]),
    }))
  const oneWay = (way: 'up' | 'down'): Fault =>
    impairing(`one-way-${way}`, USUAL, (battle) => ({ kind: oneOf(battle, ['drop', 'hold']), way }))
  return [
    cutRequests('before'),
    cutRequests('after'),
    fault('cut-connections', { breaks: 'connection', lasts: USUAL }, async (battle, say) => {
      const share = oneOf(battle, [0.3, 1])
      say(`${share * 100} %`)
      return repeatedly(battle, { fromMs: 100, toMs: 1000 }, async () => {
        await Promise.all(proxies().map(async (proxy) => proxy.cut({ share })))
      })
    }),
    impairing('flap', USUAL, () => ({ kind: 'short-lived', minMs: 15, maxMs: 375 })),
    fault('refuse', { breaks: 'connection', lasts: USUAL }, async (battle) => {
      const refusing = someOrAll(battle, proxies())
      await Promise.all(refusing.map(async (proxy) => proxy.refuse()))
      return async () => {
        await Promise.all(refusing.map(async (proxy) => proxy.accept()))
      }
    }),
    impairing('half-open', USUAL, () => ({ kind: 'drop' })),
    impairing('partition', USUAL, () => ({ kind: 'hold' })),
    oneWay('up'),
    oneWay('down'),
    impairing('stall', { fromMs: 800, toMs: 8000 }, () => ({ kind: 'hold', on: 'present' })),
    impairing('delay', USUAL, () => ({ kind: 'delay', maxMs: 300 })),
    impairing('trickle', USUAL, () => ({ kind: 'trickle', maxBytes: 60, maxMs: 6 })),
  ]
}

/** Where workers listen on connections of their own. */
export function listenerNemeses(proxies: () => readonly RemoteProxy[]): readonly Fault[] {
  return [
    fault('listener-cut', { breaks: 'connection', lasts: USUAL }, async (battle, say) => {
      const way = oneOf(battle, ['cut', 'refuse', 'hold', 'drop'])
      say(way)
      const all = proxies()
      const cut = async (): Promise<void> => {
        await Promise.all(all.map(async (proxy) => proxy.cut({ on: 'listening' })))
      }
      if (way === 'cut') return repeatedly(battle, { fromMs: 100, toMs: 1000 }, cut)
      if (way !== 'refuse') return impairAll(all, { kind: way, on: 'listening' })
      const mend = await impairAll(all, { kind: 'refuse-listeners' })
      await cut()
      return mend
    }),
  ]
}

/** Impairs all of these; the mend ends that. */
export async function impairAll(proxies: readonly RemoteProxy[], impairment: Impairment): Promise<Mend> {
  const impaired = await Promise.all(proxies.map(async (proxy) => [proxy, await proxy.impair(impairment)] as const))
  return async () => {
    await Promise.all(impaired.map(async ([proxy, number]) => proxy.mend(number)))
  }
}

/** One worker may be cut off, or all of them. */
export function someOrAll(battle: Battle, proxies: readonly RemoteProxy[]): readonly RemoteProxy[] {
  return battle.random() < 0.5 ? proxies : some(battle, proxies, Math.max(1, proxies.length - 1))
}

/** For how long a thing goes on by chance, as a whole number of milliseconds. */
export function wholeMs(battle: Battle, span: Span): number {
  return Math.round(between(battle, span))
}
