import { expect } from 'chai'
import {
  crowds,
  misreportedWrites,
  staleWrites,
  trustConflicts,
  windowsIn,
  type Report,
  type StoreEvent,
} from 'lease-chaos'

/** What two workers record that hold a lease in turn, and another lease beside it. */
const history: Readonly<Record<string, readonly Report[]>> = {
  p1: [
    relied('lease', 7n, 100),
    relied('lease', 7n, 150),
    relied('other', 8n, 120),
    relied('other', 8n, 260),
    relied('lease', 12n, 300),
    relied('lease', 12n, 310),
  ],
  p2: [relied('lease', 9n, 200), relied('lease', 9n, 250)],
}

function relied(lease: string, token: bigint, atMs: number): Report {
  return { what: 'relied', lease, token: String(token), atMs }
}

/** The history with one of its reports changed. */
function changed(name: string, index: number, change: Partial<Report>): typeof history {
  const reports =
    history[name]?.map((report, at) => (at === index ? { ...report, ...change } : report)) ?? expect.fail()
  return { ...history, [name]: reports }
}

function conflictsIn(reports: typeof history): string[] {
  return trustConflicts(windowsIn(Object.entries(reports).map(([name, all]) => ({ name, reports: all }))))
}

describe('the checker of trust', () => {
  it('finds nothing in a history in which all was right', () => {
    expect(conflictsIn(history)).to.deep.equal([])
  })

  it('finds a worker that relied on its term for too long', () => {
    expect(conflictsIn(changed('p1', 1, { atMs: 201 }))).to.deep.equal(['lease: p2 while p1 did, for 1.0 ms'])
  })

  it('finds a worker that relied on its term too early', () => {
    expect(conflictsIn(changed('p1', 4, { atMs: 249 }))).to.deep.equal(['lease: p1 while p2 did, for 1.0 ms'])
  })

  it('finds a term that lasted over several others', () => {
    const reports = changed('p1', 1, { atMs: 305 })
    expect(conflictsIn(reports)).to.deep.equal([
      'lease: p2 while p1 did, for 105.0 ms',
      'lease: p1 while p1 did, for 5.0 ms',
    ])
  })

  it('finds a fencing token that is not higher than the one before', () => {
    for (const token of ['7', '6']) {
      const swapped = { ...history, p2: history['p2']?.map((report) => ({ ...report, token })) ?? [] }
      expect(conflictsIn(swapped)).to.deep.equal([`lease: token ${token} after 7`])
    }
  })

  it('compares no leases with each other, and no instants that only touch', () => {
    expect(conflictsIn(changed('p1', 1, { atMs: 200 }))).to.deep.equal([])
    expect(conflictsIn(changed('p1', 3, { atMs: 1000 }))).to.deep.equal([])
  })
})

describe('the checker of crowds', () => {
  const windows = windowsIn(Object.entries(history).map(([name, reports]) => ({ name, reports })))

  it('finds the instants at which too many relied on something, and no others', () => {
    expect(crowds(windows, 2)).to.deep.equal([])
    expect(crowds(windows, 1)).to.deep.equal(['2 at 120', '2 at 200'])
  })
})

describe('the checker of writes', () => {
  const event = (what: StoreEvent['what'], token: bigint, over?: bigint): StoreEvent => ({
    what,
    lease: 'lease',
    token,
    ...(over !== undefined && { over }),
  })
  const log = [
    event('grant', 1n),
    event('write', 1n, 0n),
    event('grant', 4n),
    event('write', 4n, 1n),
    event('write', 4n, 4n),
  ]

  it('finds nothing in a log in which all was right', () => {
    expect(staleWrites(log)).to.deep.equal([])
  })

  it('finds a write that came after a newer grant, or after a newer write', () => {
    const [first, write, ...rest] = log as [StoreEvent, StoreEvent, ...StoreEvent[]]
    expect(staleWrites([first, rest[0] as StoreEvent, write])).to.deep.equal(['lease: a write with token 1 after 4'])
    expect(staleWrites([first, rest[1] as StoreEvent, write])).to.deep.equal(['lease: a write with token 1 after 4'])
  })

  it('finds a write over a newer one, where the store knows only that', () => {
    expect(staleWrites([event('write', 3n, 5n)])).to.deep.equal(['lease: a write with token 3 after 5'])
  })

  it('does not compare leases with each other', () => {
    expect(staleWrites([{ ...event('grant', 9n), lease: 'other' }, ...log])).to.deep.equal([])
  })

  it('finds a write that is lost, and one that was refused and done', () => {
    const told = (what: string, token: string): Report => ({ what, lease: 'lease', token, atMs: 0 })
    expect(misreportedWrites(log, [told('written', '4'), told('refused', '2'), told('granted', '3')])).to.deep.equal([])
    expect(misreportedWrites(log, [told('written', '2')])).to.deep.equal(['lease: the write with token 2 was written'])
    expect(misreportedWrites(log, [told('refused', '4')])).to.deep.equal(['lease: the write with token 4 was refused'])
  })
})
