<?php
// The table `product`. Every wait is bounded: a page that hangs tells nobody anything.
declare(strict_types=1);

/** The database is in the same network namespace: a connection takes well under a millisecond or fails. */
const CONNECT_TIMEOUT_S = 1;
/** A write may wait while a lost standby is taken out of the in-sync set (warntime and a transaction). */
const WRITE_TIMEOUT_S = 4;
/** Reads wait for nobody. */
const READ_TIMEOUT_S = 1;
/** MariaDB's ER_DUP_ENTRY. */
const DUPLICATE_KEY = 1062;

/** @throws mysqli_sql_exception */
function connect(int $timeout_s): mysqli
{
    mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
    $db = mysqli_init();
    $db->options(MYSQLI_OPT_CONNECT_TIMEOUT, CONNECT_TIMEOUT_S);
    $db->options(MYSQLI_OPT_READ_TIMEOUT, $timeout_s);
    // 127.0.0.1 and not localhost: TCP inside the host's namespace, no socket file to share between containers.
    $db->real_connect(
        getenv('MARIADB_HOST') ?: '127.0.0.1',
        getenv('MARIADB_USER') ?: 'web',
        getenv('MARIADB_PASSWORD') ?: '',
        getenv('MARIADB_DATABASE') ?: 'cluster',
    );
    $db->set_charset('utf8mb4');
    return $db;
}

/**
 * Name and price from a form.
 * @return array{string, string}
 * @throws InvalidArgumentException
 */
function product_from(array $form): array
{
    $name = trim((string) ($form['name'] ?? ''));
    $price = str_replace(',', '.', trim((string) ($form['price'] ?? ''))) ?: '0';
    if ($name === '' || !is_utf8($name) || strlen($name) > 190) {
        throw new InvalidArgumentException('A product needs a name of 1 to 190 bytes of UTF-8.');
    }
    if (!preg_match('/^\d{1,8}(\.\d{1,2})?$/', $price)) {
        throw new InvalidArgumentException('A price is a number such as 12.50.');
    }
    return [$name, number_format((float) $price, 2, '.', '')];
}

/** Valid UTF-8; pcre is always there, mbstring is not. */
function is_utf8(string $text): bool
{
    return preg_match('//u', $text) === 1;
}

/** @throws mysqli_sql_exception */
function insert_product(mysqli $db, string $name, string $price): int
{
    $insert = $db->prepare('INSERT INTO product (name, price) VALUES (?, ?)');
    $insert->bind_param('ss', $name, $price);
    $insert->execute();
    return (int) $db->insert_id;
}

/** @throws mysqli_sql_exception */
function count_products(mysqli $db): int
{
    return (int) $db->query('SELECT COUNT(*) FROM product')->fetch_row()[0];
}

/**
 * @return list<array{id: int, name: string, price: string, created_at: string}>
 * @throws mysqli_sql_exception
 */
function newest_products(mysqli $db, int $limit): array
{
    $rows = $db->query("SELECT id, name, price, created_at FROM product ORDER BY id DESC LIMIT $limit")
        ->fetch_all(MYSQLI_ASSOC);
    return array_map(fn (array $row) => ['id' => (int) $row['id']] + $row, $rows);
}
