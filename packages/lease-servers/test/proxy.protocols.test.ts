import { expect } from 'chai'
import { dynamodbProtocol, etcdProtocol, postgresProtocol, type Protocol, redisProtocol } from 'lease-servers'

type Step = readonly [from: 'client' | 'server', bytes: Buffer]

/** What a proxy would see: for each request that was made or answered a word, in order. */
function read(protocol: Protocol, steps: readonly Step[], chunk: number): readonly string[] {
  const conversation = protocol()
  const seen: string[] = []
  for (const [from, bytes] of steps) {
    const passed: Buffer[] = []
    for (let at = 0; at < bytes.length; at += chunk) {
      const piece = bytes.subarray(at, at + chunk)
      if (from === 'client') {
        for (const unit of conversation.fromClient(piece)) {
          passed.push(unit.bytes)
          if (unit.request) seen.push(`asks ${word(unit.request.payload)}`)
        }
      } else {
        for (const unit of conversation.fromServer(piece)) {
          passed.push(unit.bytes)
          if (unit.answers && unit.ends) seen.push(`answers ${word(unit.answers.payload)}`)
        }
      }
    }
    expect(Buffer.concat(passed).equals(bytes), 'every byte is passed on, in order').to.equal(true)
  }
  return seen
}

/** Payloads of these tests hold a word in brackets. */
function word(payload: Buffer): string {
  return [...payload.toString('latin1').matchAll(/<(\w+)>/g)].map((match) => match[1]).join('+')
}

function check(protocol: Protocol, steps: readonly Step[], expected: readonly string[]): void {
  for (const chunk of [1, 2, 3, 7, 1 << 20]) expect(read(protocol, steps, chunk), `${chunk}`).to.deep.equal(expected)
}

const client = (...parts: (string | Buffer)[]): Step => ['client', joined(parts)]
const server = (...parts: (string | Buffer)[]): Step => ['server', joined(parts)]

function joined(parts: readonly (string | Buffer)[]): Buffer {
  return Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part) : part)))
}

describe('what a proxy reads of Redis, however its bytes are cut', () => {
  const command = (...words: string[]): string =>
    `*${words.length}\r\n${words.map((one) => `$${Buffer.byteLength(one)}\r\n${one}\r\n`).join('')}`

  it('is each command with its reply, but nothing of the greeting', () => {
    check(
      redisProtocol,
      [
        client(command('HELLO', '3'), command('CLIENT', 'SETINFO', 'LIB-NAME', '<x>'), command('info')),
        server('%1\r\n+server\r\n+redis\r\n', '+OK\r\n', '=15\r\ntxt:Some string\r\n'),
        client(command('SET', '<a>', '1')),
        server('+OK\r\n'),
      ],
      ['asks a', 'answers a'],
    )
  })

  it('is every command of a pipeline, answered in order by values of any shape', () => {
    const names = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']
    check(
      redisProtocol,
      [
        client(...names.slice(0, -1).map((name) => command('GET', `<${name}>`)), 'GET <h>\r\n'),
        server('$-1\r\n', '$6\r\n\r\n+OK\r\n', '*2\r\n*1\r\n:1\r\n_\r\n', '-ERR <no>\r\n'),
        server('|1\r\n+ttl\r\n:7\r\n,3.5\r\n', '~2\r\n#t\r\n(12345678901234567890\r\n', '*-1\r\n', '!5\r\nERR x\r\n'),
      ],
      ['asks', 'answers'].flatMap((verb) => names.map((name) => `${verb} ${name}`)),
    )
  })

  it('takes no message that was published for a reply', () => {
    check(
      redisProtocol,
      [
        client(command('SUBSCRIBE', 'one', 'two')),
        server('>3\r\n+subscribe\r\n+one\r\n:1\r\n'),
        client(command('GET', '<a>')),
        server(
          '>3\r\n+subscribe\r\n+two\r\n:2\r\n',
          '>2\r\n+invalidate\r\n_\r\n',
          '>3\r\n+message\r\n+one\r\n+hello\r\n',
          '>1\r\n+other\r\n',
        ),
        client(command('GET', '<b>')),
        server('+x\r\n', '+y\r\n'),
      ],
      ['asks a', 'asks b', 'answers a', 'answers b'],
    )
    const resp2 = '*3\r\n$7\r\nmessage\r\n$3\r\none\r\n$5\r\nhello\r\n'
    check(
      redisProtocol,
      [
        client(command('SUBSCRIBE', 'one')),
        server('*3\r\n$9\r\nsubscribe\r\n$3\r\none\r\n:1\r\n', resp2),
        client(command('PING', '<a>')),
        server(resp2, '*2\r\n$4\r\npong\r\n$3\r\n<a>\r\n'),
      ],
      ['asks a', 'answers a'],
    )
  })
})

describe('what a proxy reads of etcd, however its bytes are cut', () => {
  const [data, headers, reset, settings, continuation] = [0, 1, 3, 4, 9]
  const [endStream, endHeaders, padded] = [1, 4, 8]
  const hello = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'

  function frame(type: number, flags: number, stream: number, content: string | Buffer = ''): Buffer {
    const body = Buffer.from(content)
    const head = Buffer.alloc(9)
    head.writeUIntBE(body.length, 0, 3)
    head.writeUInt8(type, 3)
    head.writeUInt8(flags, 4)
    head.writeUInt32BE(stream, 5)
    return Buffer.concat([head, body])
  }

  function message(text: string): Buffer {
    const head = Buffer.alloc(5)
    head.writeUInt32BE(text.length, 1)
    return Buffer.concat([head, Buffer.from(text)])
  }

  const call = (stream: number, text: string): Buffer =>
    joined([frame(headers, endHeaders, stream, 'h'), frame(data, endStream, stream, message(text))])
  const reply = (stream: number): Buffer =>
    joined([
      frame(headers, endHeaders, stream, 'h'),
      frame(data, 0, stream, message('r')),
      frame(headers, endHeaders | endStream, stream, 't'),
    ])

  it('is each unary call with its reply, in whatever order the replies come', () => {
    check(
      etcdProtocol,
      [
        client(hello, frame(settings, 0, 0), call(1, '<a>'), call(3, '<b>'), call(5, '<c>')),
        server(frame(settings, 0, 0), reply(3), reply(1), frame(headers, endHeaders | endStream, 5, 'error')),
      ],
      ['asks a', 'asks b', 'asks c', 'answers b', 'answers a', 'answers c'],
    )
  })

  it('waits for the frames that go on, skips padding, and takes a reset for a reply', () => {
    const [first, second] = [message('<a>').subarray(0, 4), message('<a>').subarray(4)]
    check(
      etcdProtocol,
      [
        client(hello, frame(headers, 0, 1, 'h'), frame(continuation, endHeaders, 1, 'i')),
        client(frame(data, 0, 1, first), frame(data, endStream | padded, 1, joined(['\u0003', second, '<x>']))),
        server(frame(headers, endHeaders, 1, 'h'), frame(data, 0, 1, message('r')), frame(headers, endStream, 1, 't')),
        client(call(3, '<b>')),
        server(frame(continuation, endHeaders, 1, 'u')),
        server(frame(reset, 0, 3, '\0\0\0\0')),
      ],
      ['asks a', 'asks b', 'answers a', 'answers b'],
    )
  })

  it('is nothing of a watch, however long it lives', () => {
    const event = frame(data, 0, 1, message('<event>'))
    check(
      etcdProtocol,
      [
        client(hello, frame(headers, endHeaders, 1, 'h'), frame(data, 0, 1, message('<watch>'))),
        server(frame(headers, endHeaders, 1, 'h'), event),
        client(call(3, '<a>'), frame(data, 0, 1, message('<another>'))),
        server(event, reply(3), event),
        client(frame(data, endStream, 1)),
        server(frame(headers, endHeaders | endStream, 1, 't')),
      ],
      ['asks a', 'answers a'],
    )
  })

  it('is nothing of what is not gRPC', () => {
    check(
      etcdProtocol,
      [client('POST /v3/maintenance/status HTTP/1.1\r\n\r\n'), server('HTTP/1.1 200 OK\r\n\r\n'), client('more')],
      [],
    )
  })
})

describe('what a proxy reads of PostgreSQL, however its bytes are cut', () => {
  function message(type: string, content: string): Buffer {
    const head = Buffer.alloc(4)
    head.writeInt32BE(4 + Buffer.byteLength(content))
    return joined([type, head, content])
  }
  const startUp = message('', '\0\u0003\0\0user\0x\0\0')
  const ready = message('Z', 'I')
  const encryption = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])

  it('is each statement with its reply, but nothing of the start-up', () => {
    check(
      postgresProtocol,
      [
        client(startUp),
        server(message('R', 'salt')),
        client(message('p', '<secret>')),
        server(message('R', '\0\0\0\0'), message('S', 'a'), ready),
        client(message('Q', '<a>'), message('P', '<b>'), message('B', '<c>'), message('E', ''), message('S', '')),
        server(message('D', 'row'), message('C', 'SELECT'), ready, message('1', ''), message('A', 'hint'), ready),
        client(message('X', '')),
      ],
      ['asks a', 'asks b+c', 'answers a', 'answers b+c'],
    )
  })

  it('goes on when the server will not encrypt, and is nothing when it will', () => {
    const session = [client(startUp), server(ready), client(message('Q', '<a>')), server(ready)]
    check(postgresProtocol, [client(encryption), server('N'), ...session], ['asks a', 'answers a'])
    check(postgresProtocol, [client(encryption), server('S'), ...session], [])
  })
})

describe('what a proxy reads of DynamoDB, however its bytes are cut', () => {
  const request = (operation: string, body: string): string =>
    `POST / HTTP/1.1\r\nhost: x\r\nX-Amz-Target: DynamoDB_20120810.${operation}\r\ncontent-length: ${Buffer.byteLength(body)}\r\nauthorization: ${Math.random()}\r\n\r\n${body}`
  const reply = (body: string): string => `HTTP/1.1 200 OK\r\nContent-Length:${Buffer.byteLength(body)}\r\n\r\n${body}`

  it('is each request with its reply, by their lengths', () => {
    check(
      dynamodbProtocol,
      [
        client(request('GetItem', '{"a":"é<a>"}')),
        server(reply('{"Item":"\r\n\r\n"}')),
        client(request('UpdateItem', '{"b":"<b>"}')),
        server(reply('')),
      ],
      ['asks a', 'answers a', 'asks b', 'answers b'],
    )
  })

  it('knows a question again, whatever its copies have of their own', () => {
    const ask = (text: string): string | undefined =>
      dynamodbProtocol().fromClient(Buffer.from(text))[0]?.request?.question
    expect(ask(request('GetItem', '{"a":1}'))).to.equal('DynamoDB_20120810.GetItem {"a":1}')
    expect(ask(request('GetItem', '{"a":1}'))).to.equal(ask(request('GetItem', '{"a":1}')))
  })
})
