import { expect } from 'chai'
import { changesIn } from '#src/hint-message.ts'

const RESYNC = [{ kind: 'resync' }]

describe('changesIn: what a hint of a store says', () => {
  const FORMS: Readonly<Record<string, readonly [string, readonly object[]]>> = {
    'names: vacated': [
      '["db", "mail"]',
      [
        { kind: 'vacated', lease: 'db' },
        { kind: 'vacated', lease: 'mail' },
      ],
    ],
    'a ticket: vacated, said to the one who waits with it': [
      '{"vacated": [["db", 7, 1]]}',
      [{ kind: 'vacated', lease: 'db', to: { place: 7, ahead: 1 } }],
    ],
    'a name in a list: vacated, said to one who watches': [
      '{"vacated": [["db"], ["mail", 7, 1]]}',
      [
        { kind: 'vacated', lease: 'db', to: undefined },
        { kind: 'vacated', lease: 'mail', to: { place: 7, ahead: 1 } },
      ],
    ],
    'names: changed': ['{"changed": ["db"]}', [{ kind: 'changed', lease: 'db' }]],
    'a ticket and a time: taken': [
      '{"taken": [["db", 7, 30000]]}',
      [{ kind: 'taken', lease: 'db', place: 7, durationMs: 30_000, to: undefined }],
    ],
    'two tickets and a time: taken, said to the one who waits with the second': [
      '{"taken": [["db", 7, 30000, 9, 0]]}',
      [{ kind: 'taken', lease: 'db', place: 7, durationMs: 30_000, to: { place: 9, ahead: 0 } }],
    ],
    'digits for numbers, as stores without numbers send them': [
      '{"taken": [["db", "9007199254740991", "0.5", "12", "3"]]}',
      [{ kind: 'taken', lease: 'db', place: Number.MAX_SAFE_INTEGER, durationMs: 0.5, to: { place: 12, ahead: 3 } }],
    ],
    'several at once, in this order': [
      '{"taken": [["a", 1, 5]], "changed": ["b"], "vacated": [["c", 2, 0], ["d", 3, 1]]}',
      [
        { kind: 'vacated', lease: 'c', to: { place: 2, ahead: 0 } },
        { kind: 'vacated', lease: 'd', to: { place: 3, ahead: 1 } },
        { kind: 'changed', lease: 'b' },
        { kind: 'taken', lease: 'a', place: 1, durationMs: 5, to: undefined },
      ],
    ],
    'names of the runtime’s own objects, and empty ones, are names': [
      '["__proto__", "constructor", ""]',
      [
        { kind: 'vacated', lease: '__proto__' },
        { kind: 'vacated', lease: 'constructor' },
        { kind: 'vacated', lease: '' },
      ],
    ],
  }
  for (const [what, [message, changes]] of Object.entries(FORMS)) {
    it(what, () => expect(changesIn(message)).to.deep.equal(changes))
  }

  const MALFORMED = [
    '',
    'db',
    '["db"',
    'null',
    '7',
    'true',
    '"db"',
    '{}',
    '[7]',
    '["db", null]',
    '[["db", 1, 0]]',
    '{"vacated": []}',
    '{"vacated": ["db"]}',
    '{"vacated": "db"}',
    '{"vacated": null}',
    '{"vacated": {"length": 1}}',
    '{"vacated": [[]]}',
    '{"vacated": [[7]]}',
    '{"vacated": [["db", 1]]}',
    '{"vacated": [["db", 1, 0, 0]]}',
    '{"vacated": [[7, 1, 0]]}',
    '{"vacated": [["db", -1, 0]]}',
    '{"vacated": [["db", 1, "many"]]}',
    '{"vacated": [["db", "", 0]]}',
    '{"vacated": [["db", " 1", 0]]}',
    '{"vacated": [["db", "Infinity", 0]]}',
    '{"vacated": [["db", "1e9", 0]]}',
    '{"vacated": [["db", 1e999, 0]]}',
    '{"vacated": [["db", true, 0]]}',
    '{"vacated": [["db", [1], 0]]}',
    '{"vacated": [["db", {}, 0]]}',
    '{"changed": [7]}',
    '{"changed": [["db", 1, 0]]}',
    '{"taken": [["db", 7]]}',
    '{"taken": [["db", 7, 30000, 9]]}',
    '{"taken": [["db", 7, 30000, 9, 0, 0]]}',
    '{"taken": [["db", 7, "soon"]]}',
    '{"taken": [["db", 7, null]]}',
    '{"released": ["db"]}',
  ]
  for (const message of MALFORMED) {
    it(`${message || 'the empty message'} is not understood: all may have changed`, () => {
      expect(changesIn(message)).to.deep.equal(RESYNC)
    })
  }

  it('a message with a part that is not understood says nothing else either', () => {
    expect(changesIn('{"changed": ["db"], "vacated": [["db", 1]]}')).to.deep.equal(RESYNC)
    expect(changesIn('{"changed": ["db", 7]}')).to.deep.equal(RESYNC)
  })

  it('throws for nothing', () => {
    for (const message of ['['.repeat(100_000), '{"taken":'.repeat(1000), '\u0000', '\uD800', `"${'x'.repeat(1e6)}"`]) {
      expect(changesIn(message)).to.deep.equal(RESYNC)
    }
  })
})
