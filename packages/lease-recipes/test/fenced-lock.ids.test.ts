import { expect } from 'chai'
import { validateString } from 'lease-core'
import { brokenLockIdRule, decodeLockId, encodeLockId, type LockId } from '#src/lock-id.ts'

/** Ids that must not meet, with what has been confused elsewhere side by side. */
const ids: readonly LockId[] = [
  '',
  ' ',
  'a',
  'A',
  'a b',
  'a%20b',
  'a,b',
  '[a,b]',
  '(a=b)',
  '=5',
  '=x05',
  '=',
  '5',
  5,
  5n,
  '5n',
  -5,
  0.1,
  '0.1',
  1e21,
  1e-7,
  Number.MAX_VALUE,
  2 ** 53,
  9007199254740993n,
  10n ** 60n,
  -1n,
  'x05',
  new Uint8Array([5]),
  new Uint8Array([]),
  new Uint8Array([0, 5]),
  'order:7',
  'order/7',
  'user@host',
  'a.b#c$d',
  'ä',
  'a\u0308',
  '🔒',
  '\n',
  '\0',
  "!~*'()",
  ['a'],
  ['a', 'b'],
  ['b', 'a'],
  ['a,b'],
  ['a', ''],
  ['', 'a'],
  [''],
  [5],
  ['5'],
  [0],
  [new Uint8Array([5])],
  { a: 'b' },
  { a: 5 },
  { a: '5' },
  { '': 'a' },
  { '': 5 },
  { 'a=b': 'c' },
  { a: 'b=c' },
  { a: 'b', c: 'd' },
  { a: 'b,c=d' },
  { partition: 'p', sort: 0 },
  { partition: 'p', sort: '' },
  { partition: 'p' },
  { ['__proto__']: 'x' },
  { 0: 'a', 1: 'b' },
]

describe('the ids of fenced locks', () => {
  it('DT-9: each has a name of its own, which any lease may have, and which can be read back', () => {
    const names = ids.map((id) => encodeLockId(id))
    for (const [index, id] of ids.entries()) {
      const name = names[index] as string
      expect(brokenLockIdRule(id), name).to.equal(undefined)
      validateString(`t:${name}`)
      expect(decodeLockId(name), name).to.deep.equal(id)
    }
    expect(new Set(names).size).to.equal(ids.length)
  })

  it('DT-9: the order of an object’s keys does not matter, nor the kind of bytes, nor the sign of zero', () => {
    expect(encodeLockId({ b: 1, a: 2 })).to.equal(encodeLockId({ a: 2, b: 1 }))
    expect(encodeLockId(Buffer.from('ab'))).to.equal(encodeLockId(new Uint8Array([0x61, 0x62])))
    expect(encodeLockId(Buffer.from('xaby').subarray(1, 3))).to.equal(encodeLockId(Buffer.from('ab')))
    expect(encodeLockId(-0)).to.equal(encodeLockId(0))
    expect(encodeLockId(Object.assign(Object.create(null) as object, { a: 1 }))).to.equal(encodeLockId({ a: 1 }))
  })

  it('DT-9: common ids stay readable', () => {
    expect(encodeLockId('order:42')).to.equal('order:42')
    expect(encodeLockId({ partition: 'eu', sort: 7 })).to.equal('(partition=eu,sort==7)')
    expect(encodeLockId(['eu', 7])).to.equal('[eu,=7]')
  })

  it('DT-10: what is no id is refused with a reason', () => {
    const bad: unknown[] = [
      null,
      undefined,
      true,
      Symbol('x'),
      () => 'x',
      Number.NaN,
      Number.NEGATIVE_INFINITY,
      '\ud800',
      [],
      {},
      [null],
      [['a']],
      // oxlint-disable-next-line no-sparse-arrays -- a hole is no part
      ['a', , 'b'],
      { a: undefined },
      { a: {} },
      { '\udfff': 'a' },
      new Date(0),
      new Map([['a', 'b']]),
      new (class Key {
        readonly id = 1
      })(),
    ]
    for (const id of bad) expect(brokenLockIdRule(id)).to.match(/^(must|is not valid: part)/)
  })

  it('names that no id has are not read as one', () => {
    for (const name of [
      '%',
      '%zz',
      '=',
      '=x0',
      '=05',
      '=5.0',
      '=NaN',
      '=-0n',
      '()',
      '(a)',
      '(b==1,a==1)',
      '[a',
      'a b',
      '%61',
    ]) {
      expect(decodeLockId(name), name).to.equal(undefined)
    }
  })

  it('no two random ids meet', () => {
    const pieces = ['a', '=', ',', '(', ')', '[', ']', '%', '5', 'n', 'x', ':', '']
    let seed = 7
    const next = (below: number): number => (seed = (seed * 48_271) % 2_147_483_647) % below
    const text = (): string => Array.from({ length: next(4) }, () => pieces[next(pieces.length)]).join('')
    const part = (): string | number => (next(3) === 0 ? next(10) : text())
    const known = new Map<string, string>()
    for (let round = 0; round < 20_000; round++) {
      const kind = next(3)
      const parts = Array.from({ length: 1 + next(3) }, part)
      const id: LockId =
        kind === 0 ? (parts[0] as string) : kind === 1 ? parts : Object.fromEntries(parts.map((one) => [text(), one]))
      const name = encodeLockId(id)
      const written = JSON.stringify([
        kind,
        kind === 2 ? Object.entries(id as object).toSorted(([a], [b]) => (a < b ? -1 : 1)) : id,
      ])
      expect(known.get(name) ?? written).to.equal(written)
      known.set(name, written)
    }
  })
})
