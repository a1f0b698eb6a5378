/**
 * The protocol of Redis, as far as a launcher and a proxy need it: where a value ends, and one command at a time.
 */
import { connect } from 'node:net'

/** A reply of Redis. Maps are flat arrays, as in RESP2; an error is an `Error`. */
export type RespValue = string | number | null | Error | readonly RespValue[]

/** A value and where it ends. */
export interface Parsed {
  readonly value: RespValue
  readonly type: string
  readonly end: number
}

const wordsPerEntry: Readonly<Record<string, number>> = { '*': 1, '~': 1, '>': 1, '%': 2, '|': 2 }

/** The value of RESP2 or RESP3 that begins there; undefined when it is not complete yet. */
export function parseResp(bytes: Buffer, start = 0): Parsed | undefined {
  const lineEnd = bytes.indexOf('\r\n', start)
  if (lineEnd < 0) return undefined
  const type = String.fromCharCode(bytes[start] ?? 0)
  const line = bytes.toString('latin1', start + 1, lineEnd)
  const end = lineEnd + 2
  const words = wordsPerEntry[type]
  if (words !== undefined) return parseEntries(bytes, type, end, Number(line) * words)
  if (type === '$' || type === '=' || type === '!') {
    const length = Number(line)
    if (length < 0) return { value: null, type, end }
    if (bytes.length < end + length + 2) return undefined
    const text = bytes.toString('latin1', end, end + length)
    return { value: type === '!' ? new Error(text) : text, type, end: end + length + 2 }
  }
  if (type === '-') return { value: new Error(line), type, end }
  if (type === '_') return { value: null, type, end }
  return { value: type === ':' ? Number(line) : line, type, end }
}

function parseEntries(bytes: Buffer, type: string, start: number, count: number): Parsed | undefined {
  if (count < 0) return { value: null, type, end: start }
  const value: RespValue[] = []
  let end = start
  for (let left = count; left > 0; left--) {
    const entry = parseResp(bytes, end)
    if (!entry) return undefined
    value.push(entry.value)
    end = entry.end
  }
  if (type !== '|') return { value, type, end }
  return parseResp(bytes, end) // an attribute is followed by what it describes
}

/** A command as it goes over the wire. */
export function encodeResp(words: readonly (string | number)[]): string {
  const bulk = (word: string | number): string => `$${Buffer.byteLength(String(word))}\r\n${word}\r\n`
  return `*${words.length}\r\n${words.map(bulk).join('')}`
}

/** Where a Redis listens. */
export interface Address {
  readonly host: string
  readonly port: number
}

/**
 * Runs commands in order on a connection of their own and resolves to the last reply.
 * @throws the first error that Redis answers, or when there is no answer within `withinMs`.
 */
export async function redisCommands(
  { host, port }: Address,
  commands: readonly (readonly (string | number)[])[],
  withinMs = 60_000,
): Promise<RespValue> {
  return await new Promise((resolve, reject) => {
    const socket = connect({ host, port, noDelay: true })
    let bytes = Buffer.alloc(0)
    let left = commands.length
    const finish = (act: () => void): void => {
      clearTimeout(timer)
      socket.destroy()
      act()
    }
    const fail = (error: Error): void => finish(() => reject(error))
    const timer = setTimeout(() => fail(new Error(`no answer within ${withinMs / 1000} s`)), withinMs)
    socket.on('error', fail)
    socket.on('close', () => fail(new Error(`${host}:${port} hung up`)))
    socket.on('data', (more) => {
      bytes = Buffer.concat([bytes, more])
      for (let reply = parseResp(bytes); reply; reply = parseResp(bytes)) {
        const { value, end } = reply
        if (value instanceof Error) return fail(value)
        bytes = bytes.subarray(end)
        if (--left === 0) return finish(() => resolve(value))
      }
    })
    socket.write(commands.map(encodeResp).join(''))
  })
}

/** Runs one command on a connection of its own. */
export async function redisCommand(address: Address, ...words: (string | number)[]): Promise<RespValue> {
  return await redisCommands(address, [words])
}
