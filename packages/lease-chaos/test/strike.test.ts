import { expect } from 'chai'
import { until } from 'lease-servers'
import type { Battle } from '#src/ground.ts'
import { mixedNemeses } from '#src/nemeses/mixed.ts'
import { between, fault, oneOf, repeatedly, some } from '#src/nemeses/strike.ts'
import { opened } from './paper-ground.ts'

const FOR_EVER = { fromMs: 3_600_000, toMs: 3_600_000 }

describe('a strike', () => {
  let abort: AbortController
  let notes: string[]
  let battle: Battle

  beforeEach(() => {
    abort = new AbortController()
    notes = []
    battle = {
      ground: opened([]),
      workers: [],
      startWorker: async () => {
        throw new Error('nobody is to be started')
      },
      random: () => 0.3,
      note: (what, detail = '') => void notes.push(`${what} ${detail}`.trim()),
      signal: abort.signal,
    }
  })

  it('mends what it broke as soon as the run ends, and says what it did', async () => {
    const nemesis = fault('breaks', { breaks: 'server', lasts: FOR_EVER }, (_, say) => {
      say('a leg')
      return () => void notes.push('mended')
    })
    const strike = nemesis.strike(battle)
    await until('the fault', () => notes.length >= 2)
    abort.abort()
    await strike
    expect(notes).to.deep.equal(['breaks', 'breaks a leg', 'mended', 'breaks ends'])
  })

  it('mends by itself when its time is over', async () => {
    const nemesis = fault('breaks', { breaks: 'server', lasts: { fromMs: 1, toMs: 2 } }, () => () => {
      notes.push('mended')
    })
    await nemesis.strike(battle)
    expect(notes).to.deep.equal(['breaks', 'mended', 'breaks ends'])
  })

  it('breaks nothing in a run that has ended', async () => {
    abort.abort()
    await fault('breaks', { breaks: 'server', lasts: FOR_EVER }, () => {
      throw new Error('it began')
    }).strike(battle)
    expect(notes).to.deep.equal([])
  })

  it('reports what it could not do, and does it again and again until then', async () => {
    let times = 0
    const nemesis = fault('breaks', { breaks: 'server', lasts: FOR_EVER }, (battle) =>
      repeatedly(battle, { fromMs: 0, toMs: 1 }, () => {
        if (++times === 3) throw new Error('broken')
      }),
    )
    const strike = nemesis.strike(battle).catch(String)
    await until('three times', () => times >= 3)
    abort.abort()
    expect(await strike).to.equal('Error: broken')
    expect(notes.at(-1)).to.equal('breaks')
  })

  it('of a storm takes no controls, never two that break the same, and ends with the run', async () => {
    const under = new Set<string>()
    const seen = new Set<string>()
    const make = (name: string, breaks: 'server' | 'connection' | 'nothing', isControl = false) =>
      fault(name, { breaks, lasts: { fromMs: 1, toMs: 3 }, isControl }, () => {
        expect(under.has(breaks), `two break the ${breaks}`).to.equal(false)
        under.add(breaks)
        seen.add(name)
        return () => void under.delete(breaks)
      })
    const faults = [
      make('one', 'server'),
      make('two', 'server'),
      make('three', 'connection'),
      make('none', 'nothing'),
      make('control', 'server', true),
    ]
    const [storm] = mixedNemeses(faults)
    let seed = 0
    const strike = storm?.strike({ ...battle, random: () => (seed += 0.37) % 1 })
    await until('all that are allowed', () => seen.size >= 3)
    abort.abort()
    await strike
    expect([...seen].toSorted()).to.deep.equal(['one', 'three', 'two'])
    expect(under.size).to.equal(0)
    expect(notes[0]).to.equal('storm')
    expect(notes.at(-1)).to.equal('storm ends')
  })

  it('of the weather ends with the run, also in the calm before it', async () => {
    const [, weather] = mixedNemeses([fault('one', { breaks: 'server', lasts: FOR_EVER }, () => () => undefined)])
    const strike = weather?.strike({ ...battle, random: () => 100 })
    abort.abort()
    await strike
    expect(notes).to.deep.equal([])
  })

  it('chooses by the seed', () => {
    expect(between(battle, { fromMs: 100, toMs: 200 })).to.equal(130)
    expect(oneOf(battle, ['a', 'b', 'c', 'd'])).to.equal('b')
    expect(some(battle, ['a', 'b', 'c', 'd'], 3)).to.deep.equal(['b'])
    expect(some({ random: () => 0.99 }, ['a', 'b'], 3)).to.deep.equal(['b', 'a'])
    expect(some(battle, [], 3)).to.deep.equal([])
  })
})
